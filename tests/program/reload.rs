//! Signals: settings that are read again, and what is ignored.

use std::path::Path;

use llamatower_layers::api_key::generate_key;
use serde_json::json;

use crate::harness::{End, Gateway, chat, send, talkative, tiny};

const DONE: &str = "settings reloaded";
const FAILED: &str = "reloading the settings failed; the old settings stay in force";

fn write(file: &Path, text: &str) {
    // As a whole, as an editor does: never a file that is half there.
    let draft = file.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, file).unwrap();
}

async fn status(gateway: &Gateway, key: &str) -> u16 {
    let asking = gateway.asking("/api/chat", &chat()).bearer_auth(key);
    send(asking).await.status
}

#[tokio::test]
async fn a_key_that_was_taken_out_of_its_file_is_refused_after_a_sighup_and_a_new_one_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let (ada, ada_line) = generate_key("ada").unwrap();
    let (bob, bob_line) = generate_key("bob").unwrap();
    write(&file, &ada_line);
    let sim = talkative().await;
    let path = file.to_str().unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_API_KEYS_FILE", path)]).await;
    let mut stream = gateway.connect().await;
    stream
        .send(format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ada}\r\n\
             Content-Length: {}\r\n\r\n{}",
            chat().to_string().len(),
            chat()
        ))
        .await;
    assert_eq!(stream.head().await.status, 200);
    stream.chunk().await;
    assert_eq!(status(&gateway, &bob).await, 401);

    write(&file, &bob_line);
    let line = gateway.hang_up(DONE).await;
    assert_eq!(line["changed"], "LLAMATOWER_API_KEYS", "{line}");
    assert!(!line.to_string().contains("sha256"), "{line}");
    assert_eq!(status(&gateway, &ada).await, 401);
    let asking = gateway.asking("/api/show", &json!({"model": "tiny"}));
    assert_eq!(send(asking.bearer_auth(&bob)).await.status, 200);
    // What was under way when its key was taken away goes on.
    stream.chunk().await;

    for broken in ["ada=plain", "a b=sha256:00"] {
        write(&file, broken);
        let line = gateway.hang_up(FAILED).await;
        let error = line["error"].as_str().unwrap();
        assert!(error.contains("LLAMATOWER_API_KEYS_FILE"), "{line}");
        let asking = gateway.asking("/api/show", &json!({"model": "tiny"}));
        assert_eq!(send(asking.bearer_auth(&bob)).await.status, 200);
    }
}

#[tokio::test]
async fn limits_in_the_file_are_changed_by_a_sighup_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamatower.toml");
    write(&file, "[limits]\nkey_rate = \"1/h\"\n");
    let sim = tiny().await;
    let path = file.to_str().unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_CONFIG", path)]).await;
    let ask = async || gateway.post("/api/chat", &chat()).await;
    assert_eq!(ask().await.status, 200);
    assert_eq!(ask().await.status, 429);

    // The rate would be free, but the file is wrong elsewhere.
    write(
        &file,
        "[limits]\nkey_rate = \"off\"\nkey_tokens = \"lots\"\n",
    );
    let line = gateway.hang_up(FAILED).await;
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .contains("limits.key_tokens")
    );
    assert_eq!(ask().await.status, 429);

    write(&file, "[limits]\nkey_rate = \"2/h\"\n");
    let line = gateway.hang_up(DONE).await;
    assert_eq!(line["changed"], "LLAMATOWER_KEY_RATE_LIMIT", "{line}");
    assert_eq!(ask().await.status, 200);
    assert_eq!(ask().await.status, 200);
    assert_eq!(ask().await.status, 429);

    write(&file, "[limits]\nrate = \"1/h\"\n");
    gateway.hang_up(DONE).await;
    let answer = ask().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("ratelimit-policy"), "\"global\";q=1;w=3600");
    assert_eq!(ask().await.status, 429);

    write(&file, "[limits]\nkey_tokens = \"1/day\"\n");
    gateway.hang_up(DONE).await;
    ask().await;
    let refusal = ask().await;
    assert_eq!(refusal.status, 429);
    assert!(refusal.text.contains("tokens per day"), "{}", refusal.text);

    write(&file, "");
    gateway.hang_up(DONE).await;
    assert_eq!(ask().await.status, 200);
    let line = gateway
        .hang_up("settings reloaded: no key or limit has changed")
        .await;
    assert_eq!(line["level"], "INFO");
}

#[tokio::test]
async fn a_limit_that_stays_the_same_keeps_what_was_used_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamatower.toml");
    write(&file, "[limits]\nkey_rate = \"1/h\"\n");
    let sim = tiny().await;
    let path = file.to_str().unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_CONFIG", path)]).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    write(&file, "[limits]\nkey_rate = \"1/h\"\nrate = \"100/h\"\n");
    gateway.hang_up(DONE).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 429);
}

#[tokio::test]
async fn a_setting_that_needs_a_restart_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamatower.toml");
    write(&file, "");
    let sim = tiny().await;
    let path = file.to_str().unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_CONFIG", path)]).await;
    write(
        &file,
        "[limits]\nbody = \"1MiB\"\nrate = \"9/h\"\n[timeouts]\nidle = \"9s\"\n",
    );
    for _ in 0..2 {
        let line = gateway
            .hang_up("these settings have changed and need a restart")
            .await;
        assert_eq!(
            line["settings"], "LLAMATOWER_IDLE_TIMEOUT, LLAMATOWER_BODY_LIMIT",
            "{line}"
        );
    }
}

#[tokio::test]
async fn other_signals_end_nothing() {
    let sim = talkative().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let mut stream = gateway.connect().await;
    stream.post("/api/chat", &chat()).await;
    assert_eq!(stream.head().await.status, 200);
    for signal in ["HUP", "USR1", "USR2", "ALRM", "PIPE"] {
        gateway.signal(signal).await;
        stream.chunk().await;
        assert_eq!(send(gateway.get("/health")).await.status, 200, "{signal}");
    }
    drop(stream);
    assert_eq!(gateway.terminate().await, Some(0));
}

#[tokio::test]
async fn a_second_sigterm_still_ends_at_once_after_a_sighup() {
    let sim = talkative().await;
    let settings = [("LLAMATOWER_DRAIN_TIMEOUT", "1h")];
    let mut gateway = Gateway::start(&[&sim], &settings).await;
    let mut stream = gateway.connect().await;
    stream.post("/api/chat", &chat()).await;
    assert_eq!(stream.head().await.status, 200);
    stream.chunk().await;
    gateway.signal("HUP").await;
    gateway.ask_to_leave().await;
    gateway
        .logged("the drain", |line| line["message"] == "draining")
        .await;
    gateway.signal("HUP").await;
    gateway.ask_to_leave().await;
    assert_eq!(gateway.ended().await, Some(0));
    let (text, end) = stream.rest().await;
    assert!(text.contains("\"error\"") || end == End::Unclean, "{text}");
}
