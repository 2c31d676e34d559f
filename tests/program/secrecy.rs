//! Keys, digests, prompts and answers are in no log line, metric, span, error or page.

#[path = "../telemetry/collector.rs"]
#[allow(dead_code)]
mod collector;

use llamatower_layers::api_key::{KeyDigest, generate_key};
use llamatower_sim::{ModelSpec, Sim};
use serde_json::{Value, json};

use crate::harness::{Gateway, send, until, with};
use collector::Collector;

/// In the prompts, in a word that nothing else contains.
const PROMPT: &str = "zanzibarprompt";
/// In a wrong key.
const WRONG: &str = "llt_wrongzebrakey";

#[tokio::test]
async fn no_key_digest_prompt_or_answer_is_in_anything_that_operators_see() {
    let (ada, _) = generate_key("ada").unwrap();
    let (old, _) = generate_key("old").unwrap();
    let (ops, _) = generate_key("ops").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let entry = |name: &str, key: &str, more: &str| {
        format!(
            "[keys.{name}]\ndigest = \"{}\"\n{more}\n",
            KeyDigest::of(key)
        )
    };
    let text = [
        entry("ada", &ada, "limits = { rate = \"1000/m\" }"),
        entry("old", &old, "expires = 2020-01-31"),
        entry("ops", &ops, "permissions = { manage = true }"),
    ]
    .concat();
    std::fs::write(&file, &text).unwrap();
    let tiny = ModelSpec::new("tiny").with_slots(4);
    let sim = Sim::builder().model(tiny).start().await.unwrap();
    let (collector, endpoint) = Collector::start().await;
    let settings = [
        ("LLAMATOWER_KEYS_FILE", file.to_str().unwrap()),
        ("LLAMATOWER_LOG", "trace"),
        ("LLAMATOWER_CACHE", "1MiB"),
        ("LLAMATOWER_FAILED_KEY_RATE_LIMIT", "4/h"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;

    let prompt = json!([{"role": "user", "content": PROMPT}]);
    let chat = json!({"model": "tiny", "messages": prompt});
    let short = json!({"model": "tiny", "messages": prompt, "max_tokens": 20});
    let requests = [
        ("/api/chat", chat.clone()),
        (
            "/api/chat",
            with(
                chat.clone(),
                json!({"stream": false, "options": {"seed": 1}}),
            ),
        ),
        ("/api/generate", json!({"model": "tiny", "prompt": PROMPT})),
        ("/api/embed", json!({"model": "tiny", "input": PROMPT})),
        ("/v1/chat/completions", short.clone()),
        ("/v1/messages", short),
        // What fails.
        ("/api/chat", with(chat.clone(), json!({"model": "missing"}))),
        ("/api/chat", with(chat.clone(), json!({"keep_alive": 0}))),
        ("/api/chat", json!({"model": ["x"], "messages": prompt})),
        ("/api/delete", json!({"model": "tiny", "system": PROMPT})),
        ("/api/unknown", json!({ "prompt": PROMPT })),
    ];
    let mut answers = Vec::new();
    let mut errors = Vec::new();
    for key in [&*ada, &*ops, &*old, WRONG, ""] {
        for (path, body) in &requests {
            let is_admin = key == ops;
            if is_admin && *path == "/api/delete" {
                continue;
            }
            let request = gateway.post_request(path, body);
            let answer = match key {
                "" => send(request).await,
                key if path.starts_with("/v1/") => send(request.header("x-api-key", key)).await,
                key => send(request.bearer_auth(key)).await,
            };
            match answer.status {
                200 => answers.push(answer.text),
                _ => errors.push(answer.text),
            }
        }
    }
    let request = gateway.post_request("/api/chat", &chat);
    let both = request.bearer_auth(&ada).header("x-api-key", &ops);
    errors.push(send(both).await.text);
    let sign_in = gateway.admin_post("/sign-in").body(format!("key={WRONG}"));
    errors.push(send(sign_in).await.text);
    assert!(
        answers.len() > 8 && errors.len() > 20,
        "{answers:?} {errors:?}"
    );

    // A failed reload with a key in the file, and one that succeeds.
    let broken = text.replace(&KeyDigest::of(&ada).to_string(), &ada);
    for (text, message) in [
        (
            &broken,
            "reloading the settings failed; the old settings stay in force",
        ),
        (
            &format!("{broken}\n[keys."),
            "reloading the settings failed; the old settings stay in force",
        ),
        (
            &format!("{text}# more\n"),
            "settings reloaded: no key or limit has changed",
        ),
    ] {
        let seen = gateway.lines_logged();
        std::fs::write(&file, text).unwrap();
        let is_it = |line: &Value| line["message"] == message;
        gateway.logged_after(seen, message, is_it).await;
        let failed = gateway.admin_page("/status").await.text;
        errors.push(failed);
    }

    let pages = [
        "/",
        "/metrics",
        "/status",
        "/status/overview",
        "/status/requests",
        "/status/settings",
        "/status/models",
    ];
    for path in pages {
        let page = gateway.admin_page(path).await;
        assert_eq!(page.status, 200, "{path}");
        errors.push(page.text);
    }
    until("spans of the inference requests", async || {
        collector.spans().len() >= 20 && !collector.metrics().is_empty()
    })
    .await;
    let log = gateway.log_text();
    // The log is one of all levels, so that the test sees what a filter would hide.
    assert!(
        log.contains("\"TRACE\"") && log.contains("\"DEBUG\""),
        "levels"
    );
    let mut places = vec![("the log", log), ("errors and pages", errors.join("\n"))];
    places.push(("spans", format!("{:?}", collector.traces())));
    places.push(("metrics of OTLP", format!("{:?}", collector.metrics())));

    let mut secrets = vec![PROMPT.to_owned(), WRONG.to_owned(), "zebrakey".to_owned()];
    for key in [&ada, &old, &ops] {
        let digest = KeyDigest::of(key).to_string();
        secrets.extend([key.clone(), key[4..].to_owned()]);
        secrets.push(digest.replace("sha256:", ""));
    }
    // What the model has answered: words of the simulated reply that nothing else contains.
    let reply: Value = serde_json::from_str(&answers[1]).unwrap();
    let reply = reply["message"]["content"].as_str().unwrap();
    assert!(reply.len() > 20, "{reply}");
    secrets.push(reply[..20].to_owned());
    for (place, text) in places {
        for secret in &secrets {
            let found = text.find(&**secret);
            let around = found.map(|at| {
                let (from, to) = (at.saturating_sub(300), text.len().min(at + 100));
                String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()
            });
            assert_eq!(around, None, "{secret:?} is in {place}");
        }
    }
}
