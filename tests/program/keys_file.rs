//! The keys file: entries, rotation, revocation and expiry.

use std::path::PathBuf;

use llamatower_layers::api_key::{KeyDigest, generate_key};
use llamatower_sim::SimHandle;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Exited, Gateway, chat, load, long_stream, run, send, tiny};

const DONE: &str = "settings reloaded";
const FAILED: &str = "reloading the settings failed; the old settings stay in force";

struct Started {
    _folder: TempDir,
    sim: SimHandle,
    gateway: Gateway,
    file: PathBuf,
}

async fn started_with(sim: SimHandle, text: &str, settings: &[(&str, &str)]) -> Started {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let mut all = vec![("LLAMATOWER_KEYS_FILE", path)];
    all.extend(settings);
    let gateway = Gateway::start_up(&[&sim], &all).await;
    Started {
        _folder: folder,
        sim,
        gateway,
        file,
    }
}

impl Started {
    /// Writes the file, and waits for the log line of the reload.
    async fn write(&self, text: &str, message: &str) -> Value {
        let seen = self.gateway.lines_logged();
        std::fs::write(&self.file, text).unwrap();
        self.reloaded(seen, message).await
    }

    async fn reloaded(&self, seen: usize, message: &str) -> Value {
        let is_it = |line: &Value| line["message"] == message;
        self.gateway.logged_after(seen, message, is_it).await
    }

    async fn status(&self, key: &str) -> u16 {
        self.ask("/api/chat", &chat(), key).await.status
    }

    async fn ask(&self, path: &str, body: &Value, key: &str) -> crate::harness::Answer {
        send(self.gateway.post_request(path, body).bearer_auth(key)).await
    }
}

/// An entry with the digest of this key.
pub(crate) fn entry(name: &str, key: &str, more: &str) -> String {
    let digest = KeyDigest::of(key);
    format!("[keys.{name}]\ndigest = \"{digest}\"\n{more}\n")
}

async fn check(text: &str, settings: &[(&str, &str)]) -> Exited {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    std::fs::write(&file, text).unwrap();
    let mut all = vec![("LLAMATOWER_KEYS_FILE", file.to_str().unwrap())];
    all.extend(settings);
    let mut exited = run(&["check"], &all).await;
    let folder = folder.path().to_str().unwrap();
    exited.stderr = exited.stderr.replace(&format!("{folder}/"), "");
    exited
}

#[tokio::test]
async fn an_entry_has_limits_models_and_permissions() {
    let text = [
        entry(
            "ada",
            "ada-key",
            "models = [\"tiny\"]\nlimits = { rate = \"2/h\" }",
        ),
        entry("ben", "ben-key", "models = \"other*\""),
        entry("ops", "ops-key", "permissions = { manage = true }"),
    ];
    let it = started_with(tiny().await, &text.concat(), &[]).await;
    assert_eq!(it.gateway.post("/api/chat", &chat()).await.status, 401);
    assert_eq!(it.status("ben-key").await, 403);
    for expected in [200, 200, 429] {
        assert_eq!(it.status("ada-key").await, expected);
    }
    let pull = json!({"model": "tiny", "stream": false});
    assert_eq!(it.ask("/api/create", &pull, "ada-key").await.status, 403);
    let show = json!({"model": "tiny"});
    let copy = json!({"source": "tiny", "destination": "tiny2"});
    assert_eq!(it.ask("/api/copy", &copy, "ops-key").await.status, 200);
    assert_eq!(it.ask("/api/show", &show, "ops-key").await.status, 200);
}

#[tokio::test]
async fn a_key_that_may_unload_needs_no_administrator() {
    let text = [
        entry("ada", "ada-key", "permissions.unload = true"),
        entry("ben", "ben-key", ""),
    ];
    let it = started_with(tiny().await, &text.concat(), &[]).await;
    load(&it.sim).await;
    let unload = json!({"model": "tiny", "keep_alive": 0});
    let refused = it.ask("/api/generate", &unload, "ben-key").await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let done = it.ask("/api/generate", &unload, "ada-key").await;
    assert_eq!(done.status, 200, "{}", done.text);
    let manage = json!({"model": "tiny"});
    let request = it.gateway.delete("/api/delete", &manage);
    assert_eq!(send(request.bearer_auth("ada-key")).await.status, 403);
}

#[tokio::test]
async fn the_log_line_of_a_refused_request_names_the_owner_of_a_valid_key_only() {
    let it = started_with(tiny().await, &entry("ada", "ada-key", ""), &[]).await;
    for (method, path, status) in [
        ("DELETE", "/api/delete", 403),
        ("POST", "/api/create", 403),
        ("GET", "/api/nope", 404),
        ("POST", "/api/nope", 404),
        ("DELETE", "/api/chat", 405),
    ] {
        for (key, name) in [("ada-key", json!("ada")), ("guess", Value::Null)] {
            let seen = it.gateway.lines_logged();
            let url = it.gateway.url(path);
            let request = reqwest::Client::new().request(method.parse().unwrap(), url);
            let answer = send(request.bearer_auth(key).body(r#"{"model":"tiny"}"#)).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
            let is_it = |line: &Value| line["message"] == "request";
            let line = it.gateway.logged_after(seen, "the line", is_it).await;
            assert_eq!(line["identity"], name, "{method} {path}: {line}");
        }
    }
}

#[tokio::test]
async fn a_key_without_the_permission_never_reaches_a_cloud() {
    let text = |cloud: bool| entry("ada", "ada-key", &format!("permissions.cloud = {cloud}"));
    let it = started_with(tiny().await, &text(false), &[]).await;
    let ask = json!({"model": "gpt-oss:120b-cloud", "messages": []});
    let refused = it.ask("/api/chat", &ask, "ada-key").await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    it.write(&text(true), DONE).await;
    let sent = it.ask("/api/chat", &ask, "ada-key").await;
    assert_eq!(sent.status, 404, "no server has it: {}", sent.text);
}

#[tokio::test]
async fn a_rotated_key_is_accepted_beside_the_new_one_and_a_revoked_one_is_not() {
    let (old, new) = (KeyDigest::of("old"), KeyDigest::of("new"));
    let ben = entry("ben", "ben-key", "");
    let it = started_with(long_stream().await, &(entry("ada", "old", "") + &ben), &[]).await;
    let mut stream = it.gateway.connect().await;
    let body = chat().to_string();
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer old\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.send(request).await;
    assert_eq!(stream.head().await.status, 200);
    let show = json!({"model": "tiny"});
    let status = async |key: &str| it.ask("/api/show", &show, key).await.status;
    assert_eq!(status("new").await, 401);

    let both = format!("[keys.ada]\ndigest = [\"{old}\", \"{new}\"]\n");
    let line = it.write(&(both + &ben), DONE).await;
    assert_eq!(line["changed"], "LLAMATOWER_KEYS_FILE", "{line}");
    assert_eq!(line["keys_changed"], "ada", "{line}");
    assert_eq!((status("old").await, status("new").await), (200, 200));

    it.write(&(entry("ada", "new", "") + &ben), DONE).await;
    assert_eq!((status("old").await, status("new").await), (401, 200));

    let line = it.write(&ben, DONE).await;
    assert_eq!(line["keys_removed"], "ada", "{line}");
    assert_eq!((status("new").await, status("ben-key").await), (401, 200));
    // The stream that began with the first key has not been cut.
    stream.chunk().await;
}

#[tokio::test]
async fn a_key_is_refused_once_it_has_expired() {
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let text = [
        entry("ada", "ada-key", &format!("expires = {soon}")),
        entry("ben", "ben-key", "expires = 2020-01-31"),
        entry("eve", "eve-key", ""),
    ];
    let it = started_with(tiny().await, &text.concat(), &[]).await;
    let refused = it.ask("/api/chat", &chat(), "ben-key").await;
    assert_eq!(refused.status, 401);
    assert!(refused.text.contains("has expired"), "{}", refused.text);
    assert_eq!(it.status("ada-key").await, 200);
    assert_eq!(it.status("eve-key").await, 200);
    let warned = |name: &'static str, text: &'static str| {
        move |line: &Value| {
            let message = line["message"].as_str().unwrap_or_default();
            line["level"] == "WARN" && message.contains(name) && message.contains(text)
        }
    };
    for (name, text) in [("keys.ada", "expires soon"), ("keys.ben", "has expired")] {
        it.gateway.logged(text, warned(name, text)).await;
    }
    let keys = async || {
        let status = it.gateway.admin_page("/status").await.json();
        status["gateway"]["expiring_keys"].clone()
    };
    let both = keys().await;
    assert_eq!(
        (&both[0]["name"], &both[0]["is_expired"]),
        (&json!("ada"), &json!(false))
    );
    assert_eq!(
        (&both[1]["name"], &both[1]["is_expired"]),
        (&json!("ben"), &json!(true))
    );
    assert_eq!(both[2], Value::Null);

    let is_it =
        |line: &Value| line["message"] == "an API key has expired" && line["identity"] == "ada";
    it.gateway.logged("the expiry", is_it).await;
    let seen = it.gateway.lines_logged();
    assert_eq!(it.status("ada-key").await, 401);
    let is_it = |line: &Value| line["message"] == "request";
    let line = it.gateway.logged_after(seen, "the refused request", is_it);
    assert_eq!(line.await["identity"], "ada");
    assert_eq!(keys().await[0]["is_expired"], true);
    let failed = it
        .gateway
        .sample("llamatower_failed_keys_total", &["expired"]);
    assert_eq!(failed.await, Some(2.0));
}

#[tokio::test]
async fn the_last_key_is_revoked_by_its_expiry_and_never_opens_the_gateway() {
    let it = started_with(tiny().await, &entry("ada", "ada-key", ""), &[]).await;
    for open in ["", "# no key\n", "[keys]\n", "[keys.ada]\n"] {
        let line = it.write(open, FAILED).await;
        let error = line["error"].as_str().unwrap();
        assert!(error.contains("keys.toml"), "{error}");
        assert_eq!(it.gateway.post("/api/chat", &chat()).await.status, 401);
        assert_eq!(it.status("ada-key").await, 200);
    }
    let admin = entry("ops", "ops-key", "permissions.manage = true");
    let line = it.write(&admin, FAILED).await;
    assert!(
        line["error"].as_str().unwrap().contains("last key"),
        "{line}"
    );
    it.write(
        &entry("ada", "ada-key", "expires = 2020-01-01T00:00:00Z"),
        DONE,
    )
    .await;
    assert_eq!(it.status("ada-key").await, 401);
    assert_eq!(it.gateway.post("/api/chat", &chat()).await.status, 401);
}

#[tokio::test]
async fn errors_name_the_file_the_line_the_key_and_the_field() {
    let digest = KeyDigest::of("ada-key");
    let one = format!("[keys.ada]\ndigest = \"{digest}\"\n");
    let (plain, _) = generate_key("ada").unwrap();
    let cases = [
        (
            format!("{one}expire = 2027-01-31\n"),
            "keys.ada.expire in keys.toml, line 3",
            "did you mean expires?",
        ),
        (
            format!("{one}limits = {{ rat = \"1/h\" }}\n"),
            "keys.ada.limits.rat in keys.toml, line 3",
            "did you mean rate?",
        ),
        (
            format!("{one}rate = \"1/h\"\n"),
            "keys.ada.rate in keys.toml, line 3",
            "did you mean limits.rate?",
        ),
        (
            format!("{one}priority = \"urgent\"\n"),
            "keys.ada.priority in keys.toml, line 3",
            "high",
        ),
        (
            format!("{one}\n[keys.ada.permissions]\nmanage = 1\n"),
            "keys.ada.permissions.manage in keys.toml, line 5",
            "true or false",
        ),
        (
            format!("{one}expires = \"soon\"\n"),
            "keys.ada.expires in keys.toml, line 3",
            "2027-01-31",
        ),
        (
            "[keys.ada]\nmodels = \"a\"\n".to_owned(),
            "keys.ada in keys.toml, line 1",
            "it has no digest",
        ),
        (
            format!("[keys.ada]\ndigest = \"{plain}\"\n"),
            "keys.ada.digest in keys.toml, line 2",
            "Never write the key itself",
        ),
        (
            format!("[keys.ada]\nkey = \"{plain}\"\n"),
            "keys.ada.key in keys.toml, line 2",
            "a key itself never belongs",
        ),
        (
            format!("{one}\n[key.bob]\n"),
            "key in keys.toml, line 4",
            "[keys.NAME]",
        ),
        (
            format!("{one}[keys.\"a b\"]\ndigest = \"{digest}\"\n"),
            "keys.a b in keys.toml, line 3",
            "letters, digits",
        ),
        (
            format!("{one}[keys.bob]\ndigest = \"{digest}\"\n"),
            "keys.bob.digest in keys.toml, line 4",
            "that of ada",
        ),
        (
            format!("{one}models = [\n"),
            "keys.toml, line 3",
            "not valid TOML",
        ),
        (
            format!("[keys.ada]\ndigest = {plain}\n"),
            "keys.toml, line 2",
            "not valid TOML",
        ),
    ];
    for (text, subject, reason) in cases {
        let exited = check(&text, &[]).await;
        assert_eq!(exited.code, Some(2), "{text}");
        let stderr = &exited.stderr;
        assert!(stderr.contains(&format!("{subject}: ")), "{text}{stderr}");
        assert!(stderr.contains(reason), "{text}{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{text}{stderr}");
        for secret in [&plain, &digest.to_string()] {
            assert!(!stderr.contains(&**secret), "{stderr}");
        }
    }
}

#[tokio::test]
async fn a_key_is_in_the_file_or_in_the_variables() {
    let line = |name: &str, key: &str| format!("{name}={}", KeyDigest::of(key));
    let text = entry("ada", "ada-key", "");
    for (variable, value, reason) in [
        (
            "LLAMATOWER_API_KEYS",
            line("ada", "x"),
            "has a key with this name",
        ),
        (
            "LLAMATOWER_ADMIN_KEYS",
            line("ada", "x"),
            "has a key with this name",
        ),
        (
            "LLAMATOWER_API_KEYS",
            line("eve", "ada-key"),
            "has this digest",
        ),
        (
            "LLAMATOWER_KEY_LIMITS",
            "ada:rate=1/h".to_owned(),
            "has an entry for this key",
        ),
        (
            "LLAMATOWER_KEY_MODELS",
            "ada=tiny".to_owned(),
            "has an entry for this key",
        ),
    ] {
        let exited = check(&text, &[(variable, &value)]).await;
        assert_eq!(exited.code, Some(2), "{variable}");
        let stderr = &exited.stderr;
        assert!(stderr.contains("keys.toml, line "), "{stderr}");
        assert!(
            stderr.contains(variable) && stderr.contains(reason),
            "{stderr}"
        );
    }
    let others = line("ben", "ben-key");
    let settings = [
        ("LLAMATOWER_API_KEYS", &*others),
        ("LLAMATOWER_REQUIRE_KEYS", "true"),
    ];
    let it = started_with(tiny().await, &text, &settings).await;
    assert_eq!(it.status("ada-key").await, 200);
    assert_eq!(it.status("ben-key").await, 200);
    let blank = run(&["check"], &[("LLAMATOWER_KEYS_FILE", "")]).await;
    assert_eq!(blank.code, Some(2), "{}", blank.stderr);
}

#[tokio::test]
async fn a_key_of_the_file_can_be_without_a_limit_and_a_reload_changes_that() {
    let text = |rate: &str, tokens: &str| {
        let digest = KeyDigest::of("ada-key");
        format!(
            "[keys.ada]\ndigest = \"{digest}\"\nlimits = {{ rate = \"{rate}\", tokens = {tokens} }}\n"
        )
    };
    let settings = [
        ("LLAMATOWER_KEY_RATE_LIMIT", "1/h"),
        ("LLAMATOWER_KEY_TOKEN_LIMIT", "2/day"),
    ];
    let it = started_with(tiny().await, &text("off", "\"off\""), &settings).await;
    for _ in 0..3 {
        assert_eq!(it.status("ada-key").await, 200);
    }
    it.write(&text("1/h", "[\"off\"]"), DONE).await;
    assert_eq!(it.status("ada-key").await, 200);
    assert_eq!(it.status("ada-key").await, 429);
}

#[tokio::test]
async fn wrong_keys_are_slowed_down_and_valid_ones_are_not() {
    let text = entry("ada", "ada-key", "");
    let settings = [("LLAMATOWER_FAILED_KEY_RATE_LIMIT", "3/h")];
    let it = started_with(tiny().await, &text, &settings).await;
    for expected in [401, 401, 401, 429, 429] {
        assert_eq!(it.status("wrong").await, expected);
    }
    let slowed = it.ask("/v1/chat/completions", &chat(), "wrong").await;
    assert_eq!(slowed.status, 429);
    assert!(slowed.header("retry-after").parse::<u64>().unwrap() > 3000);
    assert_eq!(it.status("ada-key").await, 200);
    let failed = it
        .gateway
        .sample("llamatower_failed_keys_total", &["unknown"]);
    assert_eq!(failed.await, Some(6.0));
    let page = it.gateway.admin_page("/metrics").await.text;
    let mut rows = page.lines();
    assert!(!rows.any(|row| row.contains("failed_key") && row.contains("127.0.0.1")));
}
