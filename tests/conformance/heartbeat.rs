//! Heartbeats while an event stream has not begun.

use std::time::Duration;

use llamatower_sim::recording::End;
use llamatower_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::*;

const SIGN: &str = ": waiting for the response\n\n";
const EVENTS: [&str; 3] = ["/v1/chat/completions", "/v1/messages", "/v1/responses"];

fn stream() -> Value {
    chat(
        "tiny",
        json!({"stream": true, "max_tokens": 3, "input": "x"}),
    )
}

#[tokio::test]
async fn an_event_stream_that_is_late_begins_with_comments_and_ends_as_ever() {
    let stage = stage_with(&[&[tiny()]], &[("LLAMATOWER_HEARTBEAT", "100ms")]).await;
    for path in EVENTS {
        let silence = FaultKind::silence(Duration::from_millis(350));
        stage.sims[0].arm(Fault::new(silence).for_path(path).times(1));
        let late = stage.post(path, stream()).await;
        assert_eq!((late.status, late.end), (200, End::Clean), "{path}");
        assert_eq!(late.header("content-type"), Some("text/event-stream"));
        assert!(late.header("x-request-id").is_some());
        let late = text(&late);
        let events = late.trim_start_matches(SIGN);
        assert!(events.len() < late.len(), "{path}: {late}");
        let in_time = text(&stage.post(path, stream()).await);
        assert!(!in_time.contains(SIGN), "{path}: {in_time}");
        let kinds = |text: &str| text.matches("data: ").count();
        assert_eq!(kinds(events), kinds(&in_time), "{path}: {late}");
    }
}

/// Clients of lines fail on an empty one, and there is no other that they would skip.
#[tokio::test]
async fn nothing_is_added_to_streams_of_lines_and_to_answers_that_are_no_streams() {
    let stage = stage_with(&[&[tiny()]], &[("LLAMATOWER_HEARTBEAT", "50ms")]).await;
    stage.sims[0].arm(FaultKind::silence(Duration::from_millis(300)));
    let answer = stage.post("/api/chat", chat("tiny", json!({}))).await;
    assert_eq!(
        (lines(&answer)[0]["done"].clone(), answer.end),
        (json!(false), End::Clean)
    );
    let whole = json!({"stream": false, "max_tokens": 3});
    let answer = stage
        .post("/v1/chat/completions", chat("tiny", whole))
        .await;
    assert!(body(&answer)["choices"].is_array());
}

#[tokio::test]
async fn another_server_is_asked_beneath_the_signs() {
    let settings = [
        ("LLAMATOWER_HEARTBEAT", "100ms"),
        ("LLAMATOWER_FIRST_BYTE_TIMEOUT", "400ms"),
    ];
    let stage = stage_with(&[&[tiny()], &[tiny()]], &settings).await;
    let first = stage.post(EVENTS[0], stream()).await;
    let name = first.header("x-llamatower-backend").unwrap();
    // The server that has the model in memory is asked again.
    let mut sims = stage.sims.iter();
    let warm = sims.find(|sim| sim.url().ends_with(name)).unwrap();
    warm.arm(Fault::new(FaultKind::Hang).for_path(EVENTS[0]).times(1));
    let answer = stage.post(EVENTS[0], stream()).await;
    assert_ne!(answer.header("x-llamatower-backend"), Some(name));
    let seen = text(&answer);
    assert!(
        seen.starts_with(SIGN) && seen.ends_with("data: [DONE]\n\n"),
        "{seen}"
    );
}

#[tokio::test]
async fn what_fails_after_a_sign_is_told_in_the_dialect_of_the_route() {
    let settings = [
        ("LLAMATOWER_HEARTBEAT", "50ms"),
        ("OLLAMA_TIMEOUT", "300ms"),
    ];
    let stage = stage_with(&[&[tiny()]], &settings).await;
    stage.sims[0].arm(FaultKind::Hang);
    for (path, error, end) in [
        (EVENTS[0], "\n\ndata: {\"error\":{\"message\":\"", End::Cut),
        (
            EVENTS[1],
            "\n\nevent: error\ndata: {\"type\":\"error\",",
            End::Cut,
        ),
        (EVENTS[2], "\n\nevent: response.failed\ndata: {", End::Clean),
    ] {
        let answer = stage.post(path, stream()).await;
        let seen = text(&answer);
        assert_eq!((answer.status, answer.end), (200, end), "{path}: {seen}");
        assert!(
            seen.starts_with(SIGN) && seen.contains(error),
            "{path}: {seen}"
        );
        assert!(seen.contains("no byte within"), "{path}: {seen}");
    }
}

#[tokio::test]
async fn what_is_refused_before_the_first_sign_has_its_own_status() {
    let stage = stage_with(&[&[tiny()]], &[("LLAMATOWER_HEARTBEAT", "10s")]).await;
    let absent = chat("absent", json!({"stream": true}));
    assert_eq!(stage.post(EVENTS[0], absent).await.status, 404);
    stage.sims[0].arm(FaultKind::LoadFailure);
    assert_eq!(stage.post(EVENTS[0], stream()).await.status, 500);
}

#[tokio::test]
async fn in_the_queue_a_sign_says_how_many_are_before() {
    let settings = [("LLAMATOWER_HEARTBEAT", "50ms"), ("LLAMATOWER_SLOTS", "1")];
    let stage = stage_with(&[&[slow()]], &settings).await;
    let mut holder = stage.open_chat(json!({})).await;
    holder.read_u8().await.unwrap();
    let request = chat("slow", json!({"stream": true, "max_tokens": 2}));
    let mut waiting = stage.open(EVENTS[0], &request).await;
    let place = ": waiting in the queue, requests before this one: 0";
    let seen = read_until(&mut waiting, place).await;
    assert!(!seen.contains("data: "), "{seen}");
    drop(holder);
    read_until(&mut waiting, "data: [DONE]\n\n").await;
}

/// Reads a response until it contains this text.
async fn read_until(stream: &mut TcpStream, expected: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(expected) {
        let read = stream.read_buf(&mut seen).await.unwrap();
        assert_ne!(read, 0, "{expected:?}: {}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8_lossy(&seen).into_owned()
}
