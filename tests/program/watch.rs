//! Reloading the settings when a file changes.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use llamatower_layers::api_key::generate_key;
use llamatower_sim::SimHandle;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Gateway, chat, run, send, tiny, until};

const DONE: &str = "settings reloaded";
const FAILED: &str = "reloading the settings failed; the old settings stay in force";

/// A gateway with a settings file of this text in a folder of its own.
async fn started_with(text: &str) -> (TempDir, SimHandle, Gateway) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamatower.toml");
    std::fs::write(&file, text).unwrap();
    let sim = tiny().await;
    let path = file.to_str().unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_CONFIG", path)]).await;
    (folder, sim, gateway)
}

/// Does something, waits for the log line of the reload that follows, and returns it.
async fn after(change: impl FnOnce(), gateway: &Gateway, message: &str) -> Value {
    let seen = gateway.lines_logged();
    change();
    let is_it = |line: &Value| line["message"] == message;
    let line = gateway.logged_after(seen, message, is_it).await;
    assert_eq!(line["cause"], "file", "{line}");
    line
}

async fn status(gateway: &Gateway, key: &str) -> u16 {
    let post_request = gateway.post_request("/api/chat", &chat()).bearer_auth(key);
    send(post_request).await.status
}

#[tokio::test]
async fn a_changed_file_is_applied_however_it_was_written() {
    let (folder, _sim, gateway) = started_with("[limits]\nrate = \"1/h\"\n").await;
    let file = folder.path().join("llamatower.toml");
    let text = |rate: u32| format!("[limits]\nrate = \"{rate}/h\"\n");
    let in_place = || std::fs::write(&file, text(2)).unwrap();
    let renamed = || {
        // As vim does with `backupcopy=no`: for a moment there is no file.
        std::fs::rename(&file, folder.path().join("llamatower.toml~")).unwrap();
        std::fs::write(folder.path().join("draft"), text(3)).unwrap();
        std::fs::rename(folder.path().join("draft"), &file).unwrap();
    };
    let changes: [(u32, &dyn Fn()); 2] = [(2, &in_place), (3, &renamed)];
    for (rate, change) in changes {
        let line = after(change, &gateway, DONE).await;
        assert_eq!(line["changed"], "LLAMATOWER_RATE_LIMIT", "{line}");
        let answer = gateway.post("/api/chat", &chat()).await;
        let policy = answer.header("ratelimit-policy");
        assert_eq!(policy, format!("\"global\";q={rate};w=3600"));
    }
    let last = gateway.admin_page("/status").await.json();
    let last = &last["gateway"]["last_reload"];
    assert_eq!(last["cause"], "file");
    assert_eq!(last["is_applied"], true);
    assert_eq!(last["changed"], json!(["LLAMATOWER_RATE_LIMIT"]));
    let at = gateway.sample("llamatower_last_reload_time_seconds", &["applied"]);
    assert!(at.await.unwrap() > 1e9);
}

/// Kubernetes mounts a Secret as links to files in a folder `..data`, which is itself a link that is
/// replaced.
#[tokio::test]
async fn a_changed_secret_of_kubernetes_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let (ada, ada_line) = generate_key("ada").unwrap();
    let (bob, bob_line) = generate_key("bob").unwrap();
    let at = |name: &str| folder.path().join(name);
    let put = |version: &str, line: &str| {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("keys"), line).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    put("..2026_01", &ada_line);
    symlink("..data/keys", at("keys")).unwrap();
    let (sim, path) = (tiny().await, at("keys"));
    let settings = [("LLAMATOWER_API_KEYS_FILE", path.to_str().unwrap())];
    let gateway = Gateway::start(&[&sim], &settings).await;
    assert_eq!(status(&gateway, &ada).await, 200);
    let swap = || {
        put("..2026_02", &bob_line);
        std::fs::remove_dir_all(at("..2026_01")).unwrap();
    };
    let line = after(swap, &gateway, DONE).await;
    assert_eq!(line["keys_removed"], "ada", "{line}");
    assert_eq!(status(&gateway, &ada).await, 401);
    assert_eq!(status(&gateway, &bob).await, 200);
}

#[tokio::test]
async fn wrong_settings_in_a_changed_file_are_reported_like_check_and_not_applied() {
    let (folder, _sim, gateway) = started_with("[limits]\nrate = \"1/h\"\n").await;
    let file = folder.path().join("llamatower.toml");
    let wrong = "[limits]\nrate = \"often\"\nkey_tokens = \"lots\"\n[lmits]\nbody = 1\n";
    let change = || std::fs::write(&file, wrong).unwrap();
    let line = after(change, &gateway, FAILED).await;
    let path = file.to_str().unwrap();
    let urls = "http://127.0.0.1:1";
    let checked = run(&["check", "--config", path], &[("OLLAMA_URL", urls)]).await;
    assert_eq!(checked.code, Some(2));
    let error = line["error"].as_str().unwrap();
    assert_eq!(format!("llamatower: {error}\n"), checked.stderr);
    assert_eq!(error.lines().count(), 3, "{error}");
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 429);
    let last = gateway.admin_page("/status").await.json();
    let last = &last["gateway"]["last_reload"];
    assert_eq!(
        (&last["is_applied"], &last["error"]),
        (&json!(false), &json!(error))
    );

    // The message comes once, and the corrected file is applied.
    let correct = "[limits]\nrate = \"2/h\"\nbody = \"1MiB\"\n";
    let change = || std::fs::write(&file, correct).unwrap();
    after(change, &gateway, DONE).await;
    assert_eq!(gateway.lines_of(FAILED), 1);
    let last = gateway.admin_page("/status").await.json();
    let last = &last["gateway"]["last_reload"];
    assert_eq!(last["need_restart"], json!(["LLAMATOWER_BODY_LIMIT"]));
    assert_eq!(gateway.metric("llamatower_settings_pending").await, 1.0);
}

#[tokio::test]
async fn without_watching_only_a_signal_reloads() {
    let (folder, _sim, gateway) = started_with("[config]\nwatch_files = false\n").await;
    let file = folder.path().join("llamatower.toml");
    let text = "[config]\nwatch_files = false\n[limits]\nrate = \"1/h\"\n";
    std::fs::write(&file, text).unwrap();
    // Longer than a change takes otherwise.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.lines_of(DONE), 0);
    let line = gateway.hang_up(DONE).await;
    assert_eq!(line["cause"], "signal");
}

#[tokio::test]
async fn a_signal_and_a_changed_file_are_one_reload() {
    let (folder, _sim, gateway) = started_with("").await;
    let file: &Path = &folder.path().join("llamatower.toml");
    std::fs::write(file, "[limits]\nrate = \"7/h\"\n").unwrap();
    gateway.hang_up(DONE).await;
    let change = || std::fs::write(file, "[limits]\nrate = \"8/h\"\n").unwrap();
    after(change, &gateway, DONE).await;
    assert_eq!(gateway.lines_of(DONE), 2);
}

#[tokio::test]
async fn check_diff_says_what_a_reload_would_change() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let keys = |names: &[&str]| {
        let tables = names.iter().map(|name| {
            let digest = llamatower_layers::api_key::KeyDigest::of(name);
            format!("[keys.{}]\ndigest = \"{digest}\"\n", &name[..3])
        });
        tables.collect::<String>()
    };
    std::fs::write(at("keys"), keys(&["ada", "bob", "eve"])).unwrap();
    std::fs::write(at("new-keys"), keys(&["ada", "bob2", "dan"])).unwrap();
    let old = "[limits]\nrate = \"100/h\"\n[keys]\ngroq = \"one-secret\"\nfile = ";
    std::fs::write(at("old"), format!("{old}{:?}\n", at("keys"))).unwrap();
    let sim = tiny().await;
    let settings = [
        ("LLAMATOWER_CONFIG", &*at("old")),
        ("LLAMATOWER_KEY_RATE_LIMIT", "7/h"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let urls = sim.url();
    let diff = async |config: &str, more: &[&str]| {
        let admin = gateway.admin_url();
        let arguments = ["check", "--diff", "--config", config, "--admin-url", &admin];
        let arguments = [&arguments[..], more].concat();
        run(&arguments, &[("OLLAMA_URL", &*urls)]).await
    };
    let same = diff(&at("old"), &["--json"]).await;
    assert_eq!(same.code, Some(0), "{}", same.stderr);
    let same: Value = serde_json::from_str(&same.stdout).unwrap();
    assert_eq!(same["changed"], json!([]));
    assert_eq!(same["fixed"][0]["variable"], "LLAMATOWER_KEY_RATE_LIMIT");
    assert_eq!(same["keys_unchanged"], 3);

    let new =
        "[limits]\nrate = \"200/h\"\nbody = \"1MiB\"\n[keys]\ngroq = \"another-secret\"\nfile = ";
    std::fs::write(at("new"), format!("{new}{:?}\n", at("new-keys"))).unwrap();
    let changed = diff(&at("new"), &[]).await;
    assert_eq!(changed.code, Some(4), "{}", changed.stderr);
    for part in [
        "changed by a reload:\n  LLAMATOWER_RATE_LIMIT: 100/h -> 200/h\n",
        "needs a restart:\n  LLAMATOWER_BODY_LIMIT: 128MiB -> 1MiB\n",
        "  GROQ_API_KEY\n",
        "keys added: dan\n",
        "keys removed: eve\n",
        "keys changed: bob\n",
        "1 keys\n",
    ] {
        assert!(changed.stdout.contains(part), "{part}{}", changed.stdout);
    }
    let document = gateway.admin_page("/status/settings").await.text;
    for text in [&document, &changed.stdout] {
        assert!(
            !text.contains("secret\"") && !text.contains("-secret"),
            "{text}"
        );
    }

    std::fs::write(at("open"), "").unwrap();
    let refused = diff(&at("open"), &[]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.stdout);
    assert!(refused.stdout.contains("last key"), "{}", refused.stdout);
    let wrong = diff(&at("missing"), &[]).await;
    assert_eq!(wrong.code, Some(2));
    let unreached = ["check", "--diff", "--admin-url", "http://127.0.0.1:1"];
    assert_eq!(run(&unreached, &[]).await.code, Some(1));
}

#[tokio::test]
async fn a_changed_log_filter_is_in_force_without_a_restart() {
    let sim = tiny().await;
    for traces in [None, Some("http://127.0.0.1:1")] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("llamatower.toml");
        let text = |level: &str| format!("[telemetry]\nlog = \"llamatower={level}\"\n");
        std::fs::write(&file, text("info")).unwrap();
        let mut settings = vec![("LLAMATOWER_CONFIG", file.to_str().unwrap())];
        settings.extend(traces.map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT", url)));
        let gateway = Gateway::start_up(&[&sim], &settings).await;
        gateway.post("/api/chat", &chat()).await;
        gateway.access_line("/api/chat").await;
        std::fs::write(&file, text("warn")).unwrap();
        // Its own line has the level that was switched off.
        until("the reload", async || {
            let status = gateway.admin_page("/status").await.json();
            status["gateway"]["last_reload"]["changed"] == json!(["LLAMATOWER_LOG"])
        })
        .await;
        let is_access = |line: &Value| line["message"] == "request";
        let before = gateway.count_logged(is_access);
        gateway.post("/api/chat", &chat()).await;
        let change = || std::fs::write(&file, text("info")).unwrap();
        after(change, &gateway, DONE).await;
        assert_eq!(gateway.count_logged(is_access), before);
        let seen = gateway.lines_logged();
        gateway.post("/api/chat", &chat()).await;
        gateway
            .logged_after(seen, "a line of a request", is_access)
            .await;
    }
}
