//! The response cache, which is off by default.

use llamatower_sim::{ModelSpec, SimHandle};
use serde_json::{Value, json};

use super::queue::send_chat;
use crate::harness::{Connection, Gateway, long_stream, sim_with, tiny, within_limit};

/// A gateway with a cache, which already knows the digest of the model `tiny`.
async fn caching(sim: &SimHandle) -> Gateway {
    let gateway = Gateway::start(&[sim], &[("LLAMATOWER_CACHE", "16MiB")]).await;
    let show = gateway.post("/api/show", &json!({"model": "tiny"})).await;
    assert_eq!(show.status, 200);
    gateway
}

#[tokio::test]
async fn an_embedding_is_computed_once_and_cache_status_shows_it() {
    let sim = tiny().await;
    let gateway = caching(&sim).await;
    let body = json!({"model": "tiny", "input": "a tower"});
    let first = gateway.post("/api/embed", &body).await;
    assert_eq!(
        first.header("cache-status"),
        "llamatower; fwd=miss",
        "{}",
        first.text
    );
    let second = gateway.post("/api/embed", &body).await;
    assert_eq!(second.header("cache-status"), "llamatower; hit");
    assert_eq!(first.text, second.text);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    let is_cached = |line: &Value| line["message"] == "request" && line["cache"] == "hit";
    let line = gateway.logged("the hit", is_cached).await;
    assert_eq!(
        (&line["backend"], &line["attempts"]),
        (&Value::Null, &json!(0))
    );
    let of_cache = |line: &Value| !line["cache"].is_null();
    assert_eq!(gateway.count_logged(of_cache), 1);
    let sampled = gateway
        .post("/api/generate", &json!({"model": "tiny", "prompt": "a"}))
        .await;
    assert_eq!(
        sampled.header("cache-status"),
        "",
        "the request is not deterministic"
    );
}

#[tokio::test]
async fn without_a_size_nothing_is_cached() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let body = json!({"model": "tiny", "input": "a tower"});
    for _ in 0..2 {
        let answer = gateway.post("/api/embed", &body).await;
        assert_eq!(answer.header("cache-status"), "");
    }
}

#[tokio::test]
async fn equal_streams_share_one_exchange_and_the_remaining_client_gets_it_all() {
    let model = ModelSpec::new("tiny")
        .with_slots(8)
        .with_pace(std::time::Duration::from_millis(5))
        .with_reply_tokens(40);
    let sim = sim_with(model).await;
    let gateway = caching(&sim).await;
    let body = json!({"model": "tiny", "prompt": "a", "options": {"temperature": 0}});
    let mut first = gateway.connect().await;
    first.post("/api/generate", &body).await;
    first.head().await;
    first.chunk().await;
    let mut second: Connection = gateway.connect().await;
    second.post("/api/generate", &body).await;
    let head = second.head().await;
    assert_eq!(head.get("cache-status"), "llamatower; fwd=miss; collapsed");
    drop(first);
    let has_left = |line: &Value| line["message"] == "request" && line["ending"] == "cancelled";
    let line = gateway.logged("the first client's end", has_left).await;
    assert_eq!(line["output_tokens"], Value::Null, "{line}");
    let (text, _) = second.rest().await;
    let is_shared = |line: &Value| line["message"] == "request" && line["cache"] == "collapsed";
    let line = gateway.logged("the second client's end", is_shared).await;
    assert_eq!(
        line["output_tokens"], 40,
        "it pays for the exchange: {line}"
    );
    assert!(
        text.lines().last().unwrap().contains("\"done\":true"),
        "{text}"
    );
    let third = gateway.post("/api/generate", &body).await;
    assert_eq!(third.header("cache-status"), "llamatower; hit");
    assert_eq!(third.text, text, "a stream like the first");
    assert_eq!(third.header("content-length"), "");
}

#[tokio::test]
async fn the_backend_request_is_cancelled_when_all_clients_have_left() {
    let sim = long_stream().await;
    let gateway = caching(&sim).await;
    let body = json!({"model": "tiny", "prompt": "a", "options": {"seed": 1}});
    let mut twins = Vec::new();
    for _ in 0..2 {
        let mut twin = gateway.connect().await;
        twin.post("/api/generate", &body).await;
        twin.head().await;
        twins.push(twin);
    }
    drop(twins);
    within_limit(
        "the cancellation",
        sim.wait_for(|state| state.cancelled == 1),
    )
    .await;
}

#[tokio::test]
async fn a_cached_answer_is_given_while_the_first_byte_target_refuses_other_requests() {
    let sim = long_stream().await;
    let settings = [
        ("LLAMATOWER_CACHE", "16MiB"),
        ("LLAMATOWER_FIRST_BYTE_TARGET", "10s"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let embed = json!({"model": "tiny", "input": "a tower"});
    assert_eq!(gateway.post("/api/embed", &embed).await.status, 200);
    let mut held = Vec::new();
    loop {
        let mut connection = send_chat(&gateway).await;
        if connection.head().await.status == 503 {
            break;
        }
        held.push(connection);
        assert!(held.len() < 64, "no request was refused");
    }
    let cached = gateway.post("/api/embed", &embed).await;
    assert_eq!(cached.header("cache-status"), "llamatower; hit");
    let other = json!({"model": "tiny", "input": "a lighthouse"});
    assert_eq!(gateway.post("/api/embed", &other).await.status, 503);
}
