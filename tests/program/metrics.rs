//! The metrics of a running gateway.

use std::collections::BTreeSet;

use llamatower_layers::api_key::generate_key;
use llamatower_sim::ModelSpec;
use serde_json::json;
use std::time::Duration;

use crate::harness::{Gateway, chat, send, sim_with, tiny};

/// The names of all metrics, as the table of the telemetry tests has them.
fn known() -> BTreeSet<&'static str> {
    let table = include_str!("../telemetry/metrics.tsv");
    let rows = table.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|row| row.split('\t').nth(3).unwrap()).collect()
}

#[tokio::test]
async fn what_is_known_from_the_start_is_there_with_0() {
    let (_, line) = generate_key("ada").unwrap();
    let sim = tiny().await;
    let settings = [
        ("LLAMATOWER_API_KEYS", &*line),
        ("LLAMATOWER_ALIASES", "fast=tiny"),
        ("LLAMATOWER_KEY_TOKEN_LIMIT", "1000/day"),
        ("LLAMATOWER_CACHE", "1MiB"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    for (name, labels) in [
        ("llamatower_queue_depth", &["model=\"tiny:latest\""][..]),
        ("llamatower_queue_depth", &["model=\"other\""]),
        (
            "llamatower_queue_oldest_seconds",
            &["model=\"tiny:latest\""],
        ),
        ("llamatower_queue_wait_seconds_count", &["model=\"other\""]),
        (
            "llamatower_fallbacks_total",
            &["alias=\"fast\"", "\"missing\""],
        ),
        ("llamatower_key_requests_total", &["identity=\"ada\""]),
        ("llamatower_key_requests_total", &["identity=\"anonymous\""]),
        ("llamatower_key_tokens_total", &["\"ada\"", "\"input\""]),
        (
            "llamatower_token_budget_used",
            &["\"ada\"", "\"key\"", "\"day\""],
        ),
        ("llamatower_cache_requests_total", &["\"hit\""]),
        ("llamatower_cache_size_bytes", &[]),
        ("llamatower_reloads_total", &["\"failed\""]),
        ("llamatower_connections", &["listener=\"clients\""]),
        ("llamatower_backend_avoided_models", &[]),
        ("llamatower_backend_closed_connections_total", &[]),
        ("llamatower_log_lines_dropped_total", &[]),
    ] {
        let found = gateway.sample(name, labels).await;
        assert_eq!(found, Some(0.0), "{name} {labels:?}");
    }
    let limit = gateway
        .sample("llamatower_token_budget_limit", &["\"ada\""])
        .await;
    assert_eq!(limit, Some(1000.0));
    let workers = gateway.sample("tokio_workers", &[]).await;
    assert!(workers.unwrap() >= 1.0);
}

#[tokio::test]
async fn tokens_and_requests_are_counted_by_key_and_against_its_budget() {
    let (key, line) = generate_key("ada").unwrap();
    let sim = tiny().await;
    let settings = [
        ("LLAMATOWER_API_KEYS", &*line),
        ("LLAMATOWER_KEY_TOKEN_LIMIT", "1000/day"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let answer = gateway.post_request("/api/chat", &chat()).bearer_auth(&key);
    let answer = send(answer).await;
    let last = answer.text.lines().last().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    gateway.access_line("/api/chat").await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 401);
    let of_ada = async |name: &str, kind: &str| gateway.sample(name, &["\"ada\"", kind]).await;
    let requests = of_ada("llamatower_key_requests_total", "").await;
    assert_eq!(requests, Some(1.0));
    let (input, output) = (&last["prompt_eval_count"], &last["eval_count"]);
    let tokens = of_ada("llamatower_key_tokens_total", "\"output\"").await;
    assert_eq!(tokens, output.as_f64());
    let used = of_ada("llamatower_token_budget_used", "\"day\"").await;
    assert_eq!(
        used,
        Some(input.as_f64().unwrap() + output.as_f64().unwrap())
    );
    let refused = ["\"anonymous\""];
    let refused = gateway
        .sample("llamatower_key_requests_total", &refused)
        .await;
    assert_eq!(refused, Some(1.0));
}

#[tokio::test]
async fn the_overhead_has_neither_the_backends_time_nor_the_wait_for_a_slot() {
    let model = ModelSpec::new("tiny").with_slots(1);
    let model = model
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(20);
    let sim = sim_with(model).await;
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_SLOTS", "1")]).await;
    let chat = chat();
    let (one, other) = tokio::join!(
        gateway.post("/api/chat", &chat),
        gateway.post("/api/chat", &chat)
    );
    assert_eq!((one.status, other.status), (200, 200));
    gateway.access_line("/api/chat").await;
    let sum = async |name: &str| gateway.metric(&format!("{name}_seconds_sum")).await;
    // The access lines of both requests come after their records.
    while gateway.lines_of("request") < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        gateway.metric("llamatower_overhead_seconds_count").await,
        2.0
    );
    assert_eq!(
        gateway.metric("llamatower_queue_wait_seconds_count").await,
        1.0
    );
    let (waited, overhead) = (
        sum("llamatower_queue_wait").await,
        sum("llamatower_overhead").await,
    );
    let (server, client) = (
        sum("gen_ai_server_request_duration").await,
        sum("gen_ai_client_inference_duration").await,
    );
    assert!(overhead > 0.0, "the gateway needs some time");
    // The server's time is the client's, the wait, and a part of the overhead.
    let rest = server - client - waited;
    assert!(rest >= 0.0 && rest <= overhead, "{rest} {overhead}");
    let first = sum("gen_ai_server_time_to_first_token").await;
    assert!(overhead < first - waited, "{overhead} {first} {waited}");
}

#[tokio::test]
async fn answers_from_the_cache_are_counted() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_CACHE", "16MiB")]).await;
    let show = gateway.post("/api/show", &json!({"model": "tiny"})).await;
    assert_eq!(show.status, 200);
    let embed = json!({"model": "tiny", "input": "a tower"});
    for _ in 0..3 {
        assert_eq!(gateway.post("/api/embed", &embed).await.status, 200);
    }
    let result = async |result: &str| {
        let label = format!("result=\"{result}\"");
        gateway
            .sample("llamatower_cache_requests_total", &[&label])
            .await
    };
    assert_eq!(
        (result("hit").await, result("miss").await),
        (Some(2.0), Some(1.0))
    );
    assert!(gateway.metric("llamatower_cache_size_bytes").await > 0.0);
    assert_eq!(gateway.metric("llamatower_cache_entries").await, 1.0);
}

#[tokio::test]
async fn a_reload_is_counted_and_gives_its_new_keys_their_counters() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let line = |name: &str| generate_key(name).unwrap().1;
    std::fs::write(&file, line("ada")).unwrap();
    let sim = tiny().await;
    let settings = [("LLAMATOWER_API_KEYS_FILE", file.to_str().unwrap())];
    let gateway = Gateway::start(&[&sim], &settings).await;
    std::fs::write(&file, format!("{}\n{}", line("ada"), line("bob"))).unwrap();
    gateway.hang_up("settings reloaded").await;
    let applied = gateway
        .sample("llamatower_reloads_total", &["applied"])
        .await;
    assert_eq!(applied, Some(1.0));
    let bob = gateway
        .sample("llamatower_key_requests_total", &["bob"])
        .await;
    assert_eq!(bob, Some(0.0));
}

#[tokio::test]
async fn each_metric_on_the_page_is_in_the_table() {
    let sim = tiny().await;
    let settings = [("LLAMATOWER_SEMCONV", "both")];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    gateway.access_line("/api/chat").await;
    let page = gateway.admin_page("/metrics").await.text;
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut found: BTreeSet<_> = types.map(|row| row.split(' ').next().unwrap()).collect();
    assert!(found.len() > 50, "{found:?}");
    found.remove("target_info");
    let unknown: Vec<_> = found.difference(&known()).copied().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[tokio::test]
async fn a_listener_for_metrics_serves_them_and_its_health_and_nothing_else() {
    let sim = tiny().await;
    let settings = [("LLAMATOWER_METRICS_LISTEN", "127.0.0.1:0")];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let is_it =
        |line: &serde_json::Value| line["message"] == "listening" && line["for"] == "metrics";
    let line = gateway.logged("the listener for metrics", is_it).await;
    let url = format!("http://{}", line["address"].as_str().unwrap());
    let get = async |path: &str| send(reqwest::Client::new().get(format!("{url}{path}"))).await;
    let metrics = get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4");
    assert!(
        metrics.text.contains("llamatower_build_info"),
        "{}",
        metrics.text
    );
    assert_eq!(get("/health").await.status, 200);
    for path in [
        "/",
        "/status",
        "/status/overview",
        "/api/tags",
        "/metrics/x",
    ] {
        assert_eq!(get(path).await.status, 404, "{path}");
    }
    let post = reqwest::Client::new().post(format!("{url}/metrics"));
    assert_eq!(send(post).await.status, 405);
    // Scrapers of the admin listener need no change.
    assert_eq!(gateway.admin_page("/metrics").await.status, 200);
}
