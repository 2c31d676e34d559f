//! Shutdown of the gateway, and clients that disconnect.

use llamatower_sim::{Fault, FaultKind, ModelSpec};
use serde_json::Value;

use crate::harness::{
    Connection, End, Gateway, chat, long_stream, send, sim_with, tiny, within_limit,
};

#[tokio::test]
async fn an_idle_program_ends_with_0_at_sigterm() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    assert_eq!(gateway.terminate().await, Some(0));
}

#[tokio::test]
async fn a_stream_in_progress_is_finished_before_the_program_ends() {
    let model = ModelSpec::new("tiny")
        .with_pace(std::time::Duration::from_millis(20))
        .with_reply_tokens(100);
    let sim = sim_with(model).await;
    let mut gateway = Gateway::start(&[&sim], &[("LLAMATOWER_DRAIN_DELAY", "1s")]).await;
    let mut streaming = gateway.connect().await;
    streaming.post("/api/chat", &chat()).await;
    streaming.head().await;
    streaming.chunk().await;
    gateway.send_sigterm().await;
    let is_draining = |line: &Value| line["message"] == "draining";
    let line = gateway
        .logged("the beginning of the drain", is_draining)
        .await;
    assert_eq!(line["under_way"], 1, "{line}");
    let health = within_limit("a 503 on /health", async {
        loop {
            let health = send(gateway.get("/health")).await;
            if health.status != 200 {
                return health;
            }
        }
    });
    let health = health.await;
    assert_eq!((health.status, health.header("connection")), (503, "close"));
    let (text, end) = streaming.rest().await;
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["done"], end), (&Value::Bool(true), End::Clean));
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn each_listener_tells_the_drain_on_health() {
    let sim = long_stream().await;
    let settings = [
        ("LLAMATOWER_METRICS_LISTEN", "127.0.0.1:0"),
        ("LLAMATOWER_DRAIN_TIMEOUT", "60s"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let is_it = |line: &Value| line["message"] == "listening" && line["for"] == "metrics";
    let line = gateway.logged("the listener for metrics", is_it).await;
    let metrics = format!("http://{}", line["address"].as_str().unwrap());
    let of_metrics = async |path: &str| {
        let url = format!("{metrics}{path}");
        send(reqwest::Client::new().get(url)).await
    };
    assert_eq!(gateway.admin_page("/health").await.status, 200);
    assert_eq!(of_metrics("/health").await.status, 200);
    let mut streaming = gateway.connect().await;
    streaming.post("/api/chat", &chat()).await;
    streaming.head().await;
    streaming.chunk().await;
    gateway.send_sigterm().await;
    let is_draining = |line: &Value| line["message"] == "draining";
    let beginning = gateway.logged("the beginning of the drain", is_draining);
    beginning.await;
    let drains = within_limit("a 503 on each listener", async {
        while gateway.admin_page("/health").await.status != 503 {}
        while of_metrics("/health").await.status != 503 {}
    });
    drains.await;
    // What they serve otherwise, they serve until the end.
    assert_eq!(gateway.admin_page("/status").await.status, 200);
    assert_eq!(of_metrics("/metrics").await.status, 200);
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_ends_with_an_error_line() {
    let sim = long_stream().await;
    let mut gateway = Gateway::start(&[&sim], &[("LLAMATOWER_DRAIN_TIMEOUT", "200ms")]).await;
    let mut streaming = gateway.connect().await;
    streaming.post("/api/chat", &chat()).await;
    streaming.head().await;
    streaming.chunk().await;
    gateway.send_sigterm().await;
    let (text, end) = streaming.rest().await;
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["error"].is_string(), "{text}");
    assert_eq!(end, End::Unclean);
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn a_client_that_stops_reading_is_disconnected_and_its_permit_released() {
    let model = ModelSpec::new("tiny").with_reply_tokens(100_000_000);
    let sim = sim_with(model).await;
    sim.arm(Fault::new(FaultKind::HugeLine { bytes: 32 << 20 }).for_path("/api/chat"));
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_WRITE_STALL_TIMEOUT", "1s")]).await;
    let mut stalling = Connection::with_small_window(gateway.socket_address()).await;
    stalling.post("/api/chat", &chat()).await;
    stalling.head().await;
    assert_eq!(gateway.metric("http_server_active_requests").await, 1.0);
    within_limit(
        "the backend's request is cancelled",
        sim.wait_for(|state| state.cancelled == 1),
    )
    .await;
    let line = gateway.access_line("/api/chat").await;
    assert_eq!(line["ending"], "cancelled", "{line}");
    assert_eq!(gateway.metric("http_server_active_requests").await, 0.0);
}

#[tokio::test]
async fn a_client_that_disconnects_by_fin_or_rst_cancels_its_request() {
    let sim = long_stream().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    for (number, resets) in [(1, false), (2, true)] {
        let address = gateway.socket_address();
        let mut leaving = match resets {
            true => Connection::with_reset_on_drop(address).await,
            false => Connection::tcp(address).await,
        };
        leaving.post("/api/chat", &chat()).await;
        leaving.head().await;
        leaving.chunk().await;
        drop(leaving);
        within_limit(
            "the cancellation",
            sim.wait_for(|state| state.cancelled == number),
        )
        .await;
    }
}
