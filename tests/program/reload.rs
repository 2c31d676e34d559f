//! Signals: reloading the settings, and ignored signals.

use std::path::Path;

use llamatower_layers::api_key::generate_key;
use llamatower_sim::SimHandle;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::harness::{End, Gateway, chat, long_stream, send, tiny};

const DONE: &str = "settings reloaded";
const FAILED: &str = "reloading the settings failed; the old settings stay in force";

fn write(file: impl AsRef<Path>, text: &str) {
    let file = file.as_ref();
    // Atomically, as an editor does, so that the file is never incomplete.
    let draft = file.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, file).unwrap();
}

/// A gateway in front of a simulated Ollama, with a TOML file of this text.
async fn started_with(text: &str) -> (NamedTempFile, SimHandle, Gateway) {
    let file = NamedTempFile::new().unwrap();
    write(&file, text);
    let sim = tiny().await;
    let path = file.path().to_str().unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_CONFIG", path)]).await;
    (file, sim, gateway)
}

async fn status(gateway: &Gateway, key: &str) -> u16 {
    let post_request = gateway.post_request("/api/chat", &chat()).bearer_auth(key);
    send(post_request).await.status
}

#[tokio::test]
async fn after_sighup_a_removed_key_is_refused_and_a_new_one_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let (ada, ada_line) = generate_key("ada").unwrap();
    let (bob, bob_line) = generate_key("bob").unwrap();
    write(&file, &ada_line);
    let sim = long_stream().await;
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
    let post_request = gateway.post_request("/api/show", &json!({"model": "tiny"}));
    assert_eq!(send(post_request.bearer_auth(&bob)).await.status, 200);
    // A request in flight continues after its key was removed.
    stream.chunk().await;

    for broken in ["ada=plain", "a b=sha256:00"] {
        write(&file, broken);
        let line = gateway.hang_up(FAILED).await;
        let error = line["error"].as_str().unwrap();
        assert!(error.contains("LLAMATOWER_API_KEYS_FILE"), "{line}");
        let post_request = gateway.post_request("/api/show", &json!({"model": "tiny"}));
        assert_eq!(send(post_request.bearer_auth(&bob)).await.status, 200);
    }
}

#[tokio::test]
async fn after_sighup_the_keys_in_a_file_that_the_toml_file_names_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let config = folder.path().join("llamatower.toml");
    let (ada, ada_line) = generate_key("ada").unwrap();
    let (bob, bob_line) = generate_key("bob").unwrap();
    write(&keys, &ada_line);
    write(&config, &format!("[keys]\napi_file = {keys:?}\n"));
    let sim = tiny().await;
    let path = config.to_str().unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_CONFIG", path)]).await;
    assert_eq!(status(&gateway, &ada).await, 200);
    assert_eq!(status(&gateway, &bob).await, 401);

    write(&keys, &format!("# ada has left\n{bob_line}\n"));
    let line = gateway.hang_up(DONE).await;
    assert_eq!(line["changed"], "LLAMATOWER_API_KEYS", "{line}");
    assert_eq!(status(&gateway, &ada).await, 401);
    assert_eq!(status(&gateway, &bob).await, 200);

    for broken in ["", "# no key\n"] {
        write(&keys, broken);
        let line = gateway.hang_up(FAILED).await;
        let error = line["error"].as_str().unwrap();
        assert!(error.contains("keys.api_file"), "{line}");
        assert_eq!(status(&gateway, &bob).await, 200);
    }
}

#[tokio::test]
async fn sighup_applies_the_limits_of_the_file_all_or_none() {
    let (file, _sim, gateway) = started_with("[limits]\nkey_rate = \"1/h\"\n").await;
    let ask = async || gateway.post("/api/chat", &chat()).await;
    assert_eq!(ask().await.status, 200);
    assert_eq!(ask().await.status, 429);

    // Removing the rate is valid, but another part of the file is wrong.
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
    let last_reload = async || {
        let status = gateway.admin_page("/status").await.json();
        status["gateway"]["last_reload"].clone()
    };
    assert_eq!(last_reload().await["is_applied"], false);

    write(&file, "[limits]\nkey_rate = \"2/h\"\n");
    let line = gateway.hang_up(DONE).await;
    assert_eq!(last_reload().await["is_applied"], true);
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
async fn an_unchanged_limit_still_counts_earlier_requests() {
    let (file, _sim, gateway) = started_with("[limits]\nkey_rate = \"1/h\"\n").await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    write(&file, "[limits]\nkey_rate = \"1/h\"\nrate = \"100/h\"\n");
    gateway.hang_up(DONE).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 429);
}

#[tokio::test]
async fn a_changed_setting_that_needs_a_restart_is_logged() {
    let (file, _sim, gateway) = started_with("").await;
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
async fn other_signals_do_not_end_the_process() {
    let sim = long_stream().await;
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
    let sim = long_stream().await;
    let settings = [("LLAMATOWER_DRAIN_TIMEOUT", "1h")];
    let mut gateway = Gateway::start(&[&sim], &settings).await;
    let mut stream = gateway.connect().await;
    stream.post("/api/chat", &chat()).await;
    assert_eq!(stream.head().await.status, 200);
    stream.chunk().await;
    gateway.signal("HUP").await;
    gateway.send_sigterm().await;
    gateway
        .logged("the drain", |line| line["message"] == "draining")
        .await;
    gateway.signal("HUP").await;
    gateway.send_sigterm().await;
    assert_eq!(gateway.ended().await, Some(0));
    let (text, end) = stream.rest().await;
    assert!(text.contains("\"error\"") || end == End::Unclean, "{text}");
}

#[tokio::test]
async fn a_reload_never_opens_the_gateway() {
    let (ada, ada_line) = generate_key("ada").unwrap();
    let with_keys = format!("[keys]\napi = [\"{ada_line}\"]\nrequired = true\n");
    let (file, _sim, gateway) = started_with(&with_keys).await;
    // An empty file, as a half-finished write leaves it; the keys removed on purpose; the requirement
    // removed with them.
    for open in [
        "",
        "[limits]\nkey_rate = \"100/h\"\n",
        "[keys]\nrequired = false\n",
    ] {
        write(&file, open);
        let line = gateway.hang_up(FAILED).await;
        let error = line["error"].as_str().unwrap();
        assert!(error.contains("last key of a client"), "{line}");
        assert!(
            !error.contains("LLAMATOWER_API_KEYS"),
            "no such variable is set: {line}"
        );
        let without_key = gateway.get("/api/tags").header("host", "evil.example");
        assert_eq!(send(without_key).await.status, 401, "{open:?}");
        assert_eq!(status(&gateway, &ada).await, 200);
    }
    let (ben, ben_line) = generate_key("ben").unwrap();
    write(&file, &with_keys.replace(&ada_line, &ben_line));
    let line = gateway.hang_up(DONE).await;
    assert_eq!(line["keys_added"], "ben", "{line}");
    assert_eq!(line["keys_removed"], "ada", "{line}");
    assert_eq!(status(&gateway, &ada).await, 401);
    assert_eq!(status(&gateway, &ben).await, 200);
}

#[tokio::test]
async fn with_the_first_key_a_loopback_listener_accepts_every_host() {
    let (file, _sim, gateway) = started_with("").await;
    let ask = async |key: &str| {
        let request = gateway.get("/api/tags").header("host", "llm.example");
        send(request.bearer_auth(key)).await.status
    };
    let (ada, ada_line) = generate_key("ada").unwrap();
    assert_eq!(ask(&ada).await, 403);
    write(&file, &format!("[keys]\napi = [\"{ada_line}\"]\n"));
    gateway.hang_up(DONE).await;
    assert_eq!(ask(&ada).await, 200);
    assert_eq!(ask("another").await, 401);
}

#[tokio::test]
async fn a_reload_logs_the_warnings_and_the_settings_that_it_cannot_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamatower.toml");
    write(&file, "");
    let sim = tiny().await;
    let path = file.to_str().unwrap();
    let settings = [
        ("LLAMATOWER_CONFIG", path),
        ("LLAMATOWER_KEY_RATE_LIMIT", "100/h"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let line = gateway
        .hang_up(
            "settings reloaded: no key or limit has changed; environment variables need a restart",
        )
        .await;
    assert_eq!(line["need_restart"], "LLAMATOWER_KEY_RATE_LIMIT", "{line}");

    let seen = gateway.lines_logged();
    write(&file, "[limits]\nkey_limits = \"bob:rate=1/h\"\n");
    gateway.hang_up(DONE).await;
    let is_it = |line: &serde_json::Value| {
        let text = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && text.contains("bob")
    };
    gateway
        .logged_after(seen, "a warning about bob", is_it)
        .await;
}

#[tokio::test]
async fn a_file_that_does_not_respond_stops_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let (ada, ada_line) = generate_key("ada").unwrap();
    write(&file, &ada_line);
    let sim = tiny().await;
    let path = file.to_str().unwrap();
    let settings = [
        ("LLAMATOWER_API_KEYS_FILE", path),
        ("LLAMATOWER_WORKER_THREADS", "1"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    std::fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    gateway.signal("HUP").await;
    for _ in 0..5 {
        assert_eq!(status(&gateway, &ada).await, 200);
    }
    assert_eq!(gateway.terminate().await, Some(0));
}

#[tokio::test]
async fn sighup_applies_the_models_of_keys() {
    let (ada, line) = generate_key("ada").unwrap();
    let text =
        |models: &str| format!("[keys]\napi = {line:?}\n[limits]\nkey_models = {models:?}\n");
    let (file, _sim, gateway) = started_with(&text("ada=other*")).await;
    let tags = async || {
        let tags = send(gateway.get("/api/tags").bearer_auth(&ada))
            .await
            .json();
        tags["models"].as_array().unwrap().len()
    };
    assert_eq!((status(&gateway, &ada).await, tags().await), (403, 0));
    write(&file, &text("ada=other*|tiny"));
    let line = gateway.hang_up(DONE).await;
    assert_eq!(line["changed"], "LLAMATOWER_KEY_MODELS", "{line}");
    assert_eq!((status(&gateway, &ada).await, tags().await), (200, 1));
    write(&file, &text("ada=other"));
    gateway.hang_up(DONE).await;
    assert_eq!((status(&gateway, &ada).await, tags().await), (403, 0));
}

#[tokio::test]
async fn sighup_applies_whether_aliases_are_listed() {
    let text = |is_listed: bool| {
        format!("[aliases]\ngpt = \"tiny\"\n[routing]\nlist_aliases = {is_listed}\n")
    };
    let (file, sim, gateway) = started_with(&text(false)).await;
    gateway.until_up(&[&sim]).await;
    let listed = async || {
        let tags = send(gateway.get("/api/tags")).await.text;
        let models = send(gateway.get("/v1/models")).await.text;
        (tags.contains("gpt:latest"), models.contains("\"gpt\""))
    };
    assert_eq!(listed().await, (false, false));
    write(&file, &text(true));
    let line = gateway.hang_up(DONE).await;
    assert_eq!(line["changed"], "LLAMATOWER_LIST_ALIASES", "{line}");
    assert_eq!(listed().await, (true, true));
    write(&file, &text(false));
    gateway.hang_up(DONE).await;
    assert_eq!(listed().await, (false, false));
}
