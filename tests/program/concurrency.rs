//! How many requests of a client run at a time.

use std::time::Duration;

use llamatower_sim::{ModelSpec, SimHandle};
use serde_json::{Value, json};

use crate::harness::{
    Gateway, Redis, WEBUI_AND_BOB, chat, keys, send, sim_with, with, within_limit,
};
use crate::replicas::REDIS;

const CONCURRENCY: &str = "LLAMATOWER_KEY_CONCURRENCY";

/// Streams that do not end before the test, in eight slots.
async fn endless() -> SimHandle {
    let model = ModelSpec::new("tiny").with_slots(8);
    let slow = model.with_pace(Duration::from_millis(20));
    sim_with(slow.with_reply_tokens(1_000_000)).await
}

fn chat_of(gateway: &Gateway, key: &str) -> reqwest::RequestBuilder {
    let request = gateway.post_request("/api/chat", &chat());
    request.bearer_auth(format!("{key}-secret"))
}

/// Sends a request, and returns its response when it begins.
async fn begun(request: reqwest::RequestBuilder) -> reqwest::Response {
    let response = within_limit("a response", request.send()).await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// The requests of a key: running, waiting and the limit.
async fn of_key(gateway: &Gateway, key: &str) -> Value {
    let overview = gateway.admin_page("/status/overview").await.json();
    let mut rows = overview["keys"].as_array().unwrap().iter();
    rows.find(|row| row["name"] == key).unwrap()["concurrency"].clone()
}

/// Waits until so many requests wait for their client's turn.
async fn until_waiting(gateway: &Gateway, number: u32) {
    within_limit("the waiting requests", async {
        let name = "llamatower_key_concurrency_waiting";
        while gateway.sample(name, &[]).await != Some(number.into()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn until(gateway: &Gateway, key: &str, expected: Value) {
    within_limit("the requests of the key", async {
        while of_key(gateway, key).await != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn further_requests_of_a_client_wait_for_its_turn_and_others_pass() {
    let sim = endless().await;
    let keys = keys(&["ada", "ben", "eve"]);
    let settings = [
        ("LLAMATOWER_API_KEYS", &*keys),
        (CONCURRENCY, "1"),
        ("LLAMATOWER_KEY_LIMITS", "eve:concurrency=off"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let first = begun(chat_of(&gateway, "ada")).await;
    let second = tokio::spawn(begun(chat_of(&gateway, "ada")));
    let waits = json!({"running": 1, "waiting": 1, "limit": 1});
    until(&gateway, "ada", waits).await;
    until_waiting(&gateway, 1).await;
    let _others = [
        begun(chat_of(&gateway, "ben")).await,
        begun(chat_of(&gateway, "eve")).await,
        begun(chat_of(&gateway, "eve")).await,
    ];
    assert!(!second.is_finished());
    let list = gateway.get("/api/tags").bearer_auth("ada-secret");
    assert_eq!(send(list).await.status, 200, "it runs no model");
    drop(first);
    let second = within_limit("its turn", second).await.unwrap();
    drop(second);
    until(&gateway, "ada", Value::Null).await;
    let is_it = |line: &Value| line["identity"] == "ada" && line["queued"].as_f64() > Some(0.0);
    gateway.logged("the wait in the access log", is_it).await;
}

#[tokio::test]
async fn what_requests_have_used_counts_for_those_that_waited_for_them() {
    let sim = endless().await;
    let keys = keys(&["ada"]);
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let url = redis.url();
    let settings = [
        ("LLAMATOWER_API_KEYS", &*keys),
        (CONCURRENCY, "1"),
        ("LLAMATOWER_KEY_TOKEN_LIMIT", "3500/day"),
        // With two limits, Redis is asked for both before the wait, and has too few tokens for the last request.
        ("LLAMATOWER_KEY_RATE_LIMIT", "1000/s"),
        (REDIS, &url),
    ];
    for settings in [&settings[..4], &settings] {
        let gateway = Gateway::start_up(&[&sim], settings).await;
        let first = begun(chat_of(&gateway, "ada")).await;
        // 1000 tokens are expected by the length of each, and few are used.
        let long =
            json!({"options": {"num_predict": 10}, "tools": [], "unknown": "a".repeat(3900)});
        let mut others = Vec::new();
        for number in 1..=4 {
            let request = gateway.post_request("/api/chat", &with(chat(), long.clone()));
            others.push(tokio::spawn(send(request.bearer_auth("ada-secret"))));
            until_waiting(&gateway, number).await;
        }
        drop(first);
        for other in others {
            let answer = within_limit("its turn", other).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_client_is_told_if_too_many_of_its_requests_wait_or_one_for_too_long() {
    let sim = endless().await;
    let settings = [
        (CONCURRENCY, "1"),
        ("LLAMATOWER_QUEUE_MAX_WAIT", "2s"),
        ("LLAMATOWER_QUEUE_MAX_WAITING_PER_KEY", "1"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let _first = begun(gateway.post_request("/api/chat", &chat())).await;
    let second = tokio::spawn(send(gateway.post_request("/v1/chat/completions", &chat())));
    until_waiting(&gateway, 1).await;
    let third = gateway.post("/api/chat", &chat()).await;
    let late = within_limit("the refusal", second).await.unwrap();
    assert_eq!(late.status, 429, "{}", late.text);
    let text = late.json()["error"]["message"].to_string();
    assert!(text.contains("may have 1 requests at a time"), "{text}");
    assert_eq!(third.status, 429, "{}", third.text);
    assert!(!third.header("retry-after").is_empty());
    let text = "1 more of its requests wait already";
    assert!(third.text.contains(text), "{}", third.text);
}

#[tokio::test]
async fn each_user_of_a_key_has_a_limit_and_the_key_limits_their_sum() {
    let sim = endless().await;
    let settings = [
        WEBUI_AND_BOB,
        ("LLAMATOWER_DELEGATING_KEYS", "webui"),
        ("LLAMATOWER_USER_CONCURRENCY", "1"),
        ("LLAMATOWER_KEY_LIMITS", "webui:concurrency=2"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let of_user = |user: &str| {
        let request = chat_of(&gateway, "webui");
        request.header("x-openwebui-user-email", user.to_owned())
    };
    let first = begun(of_user("ada@example.org")).await;
    let again = tokio::spawn(begun(of_user("ada@example.org")));
    until_waiting(&gateway, 1).await;
    let other = begun(of_user("ben@example.org")).await;
    let third = tokio::spawn(begun(of_user("cid@example.org")));
    until_waiting(&gateway, 2).await;
    let full = json!({"running": 2, "waiting": 1, "limit": 2});
    assert_eq!(of_key(&gateway, "webui").await, full);
    drop(other);
    let third = within_limit("the turn of another user", third)
        .await
        .unwrap();
    assert!(!again.is_finished(), "its user has one still");
    drop((first, third));
    within_limit("the turn of the user", again).await.unwrap();
}

#[tokio::test]
async fn a_reload_changes_the_limit_for_the_requests_that_wait() {
    let sim = endless().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamatower.toml");
    let set = |limit: u32| {
        let draft = folder.path().join("draft");
        std::fs::write(&draft, format!("[limits]\nkey_concurrency = {limit}\n")).unwrap();
        std::fs::rename(&draft, &file).unwrap();
    };
    set(1);
    let config = [("LLAMATOWER_CONFIG", file.to_str().unwrap())];
    let gateway = Gateway::start_up(&[&sim], &config).await;
    let request = || gateway.post_request("/api/chat", &chat());
    let _first = begun(request()).await;
    let second = tokio::spawn(begun(request()));
    until_waiting(&gateway, 1).await;
    set(2);
    within_limit("its turn", second).await.unwrap();
}
