#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::rescue::RescueLayer;
use crate::{
    BoxError, Dialect, EndpointTable, Failure, LlmRequest, Operation, Outcome, Record, Side,
};

const EVERY: Duration = Duration::from_secs(20);
const HEARTBEAT: &str = ": waiting for the response\n\n";
const EVENTS: &str = "data: {\"choices\":[]}\n\ndata: [DONE]\n\n";

fn request(path: &str) -> Request<()> {
    let mut request = Request::new(());
    let route = EndpointTable::ollama().look_up(&Method::POST, path);
    route.put_into(request.extensions_mut());
    Record::new(Outcome::starting(Instant::now())).put_into(request.extensions_mut());
    request
}

fn answer(status: u16, content_type: &str, text: &str) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status);
    let answer = answer.header("content-type", content_type.to_owned());
    answer.body(Full::from(text.to_owned())).unwrap()
}

fn events() -> Result<Response<Full<Bytes>>, BoxError> {
    Ok(answer(200, "text/event-stream", EVENTS))
}

/// The response to a stream request by a service with this delay, before errors are turned into
/// responses.
async fn late(
    after: u64,
    path: &str,
    given: fn() -> Result<Response<Full<Bytes>>, BoxError>,
) -> (StatusCode, String, bool) {
    let service = service_fn(move |_: Request<()>| async move {
        sleep(Duration::from_secs(after)).await;
        given()
    });
    let layer = HeartbeatLayer::new(EVERY).with_requests(|_| true);
    let service = RescueLayer::new().layer(layer.layer(service));
    let Ok(answer) = service.oneshot(request(path)).await;
    let (status, mut body) = (answer.status(), answer.into_body());
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => text += str::from_utf8(&frame.into_data().unwrap()).unwrap(),
            Err(_) => return (status, text, false),
        }
    }
    (status, text, true)
}

#[tokio::test(start_paused = true)]
async fn a_response_before_the_first_heartbeat_passes_unchanged() {
    for (status, content_type, text) in [
        (200, "text/event-stream", EVENTS),
        (200, "application/json", "{}"),
        (503, "application/json", "{\"error\":\"busy\"}"),
    ] {
        let service = service_fn(move |_: Request<()>| async move {
            sleep(Duration::from_secs(19)).await;
            Ok::<_, Infallible>(answer(status, content_type, text))
        });
        let layer = HeartbeatLayer::new(EVERY).with_requests(|_| true);
        let answer = layer
            .layer(service)
            .oneshot(Request::new(()))
            .await
            .unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-type"], content_type);
        assert_eq!(answer.body().size_hint().exact(), Some(text.len() as u64));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_stream_is_preceded_by_a_heartbeat_per_interval() {
    for (after, signs) in [(21, 1), (59, 2), (900, 44)] {
        let (status, text, is_clean) = late(after, "/v1/chat/completions", events).await;
        assert_eq!((status, is_clean), (StatusCode::OK, true));
        assert_eq!(
            text,
            format!("{}{EVENTS}", HEARTBEAT.repeat(signs)),
            "{after} s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_has_the_head_of_an_event_stream() {
    let service = service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    let layer = HeartbeatLayer::new(EVERY).with_requests(|_| true);
    let started = Instant::now();
    let answer = layer
        .layer(service)
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(started.elapsed(), EVERY);
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    assert!(!answer.body().is_end_stream() && answer.body().size_hint().exact().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_a_heartbeat_is_reported_as_a_broken_stream() {
    for (path, error) in [
        ("/v1/chat/completions", "data: {\"error\":{\"message\":"),
        ("/v1/messages", "event: error\ndata: {\"type\":\"error\""),
        ("/v1/responses", "event: response.failed\ndata: {"),
    ] {
        for (given, expected) in [
            ((|| Err(busy())) as fn() -> _, "all slots are taken"),
            (
                || {
                    Ok(answer(
                        503,
                        "application/json",
                        "{\"error\":\"server busy\"}",
                    ))
                },
                "server busy (status 503)",
            ),
            (
                || {
                    Ok(answer(
                        404,
                        "application/json",
                        "{\"error\":{\"message\":\"no model\"}}",
                    ))
                },
                "no model (status 404)",
            ),
            (
                || Ok(answer(500, "text/plain", "oh\nno")),
                "oh\\nno (status 500)",
            ),
            (
                || Ok(answer(502, "text/plain", "")),
                "the backend refused the request (status 502)",
            ),
        ] {
            let (status, text, is_clean) = late(30, path, given).await;
            assert_eq!(status, StatusCode::OK, "the head was sent before");
            let frame = text.strip_prefix(HEARTBEAT).unwrap();
            assert!(
                frame.starts_with(error) && frame.contains(expected),
                "{text}"
            );
            assert!(frame.ends_with("}\n\n"), "{frame}");
            assert_eq!(is_clean, path == "/v1/responses");
        }
    }
}

fn busy() -> BoxError {
    let refused = RefusedLate {
        status: StatusCode::SERVICE_UNAVAILABLE,
        text: "all slots are taken".to_owned(),
    };
    Failure::from(refused).into()
}

#[test]
fn a_late_refusal_keeps_its_side_and_its_status() {
    for (status, side) in [
        (404, Side::Client),
        (503, Side::Upstream),
        (200, Side::Upstream),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let failure = Failure::from(RefusedLate::of(status, b"{}"));
        assert_eq!((failure.status(), failure.side()), (status, side));
    }
}

#[tokio::test(start_paused = true)]
async fn by_default_only_requests_for_event_streams_get_heartbeats() {
    for (dialect, operation, stream, has_signs) in [
        (Dialect::OpenAi, Operation::Chat, true, true),
        (Dialect::OpenAi, Operation::Generate, true, true),
        (Dialect::Anthropic, Operation::Chat, true, true),
        (Dialect::Responses, Operation::Chat, true, true),
        (Dialect::OpenAi, Operation::Chat, false, false),
        (Dialect::OpenAi, Operation::Embed, true, false),
        (Dialect::Ollama, Operation::Chat, true, false),
        (Dialect::Ollama, Operation::Pull, true, false),
    ] {
        let llm = LlmRequest {
            dialect,
            operation,
            model: None,
            stream,
            keep_alive: None,
            num_ctx: None,
            has_no_prompt: false,
            needs: Default::default(),
            body_bytes: 0,
            prompt_bytes: 0,
            prefix: Default::default(),
            places: Default::default(),
        };
        let mut request = Request::new(());
        llm.put_into(request.extensions_mut());
        let service = service_fn(async |_: Request<()>| {
            sleep(Duration::from_secs(50)).await;
            events()
        });
        let started = Instant::now();
        let service = HeartbeatLayer::new(EVERY).layer(service);
        service.oneshot(request).await.unwrap();
        let is_early = started.elapsed() == EVERY;
        assert_eq!(is_early, has_signs, "{dialect:?} {operation:?} {stream}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_interval_there_are_no_heartbeats() {
    let service = service_fn(async |_: Request<()>| {
        sleep(Duration::from_secs(5000)).await;
        events()
    });
    let layer = HeartbeatLayer::new(None).with_requests(|_| true);
    let answer = layer
        .layer(service)
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        EVENTS
    );
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_has_the_text_of_the_wait_while_there_is_one() {
    let service = service_fn(async |request: Request<()>| {
        let waiting = Waiting::of(request.extensions()).unwrap().clone();
        let began = Instant::now();
        waiting.set_description(move || {
            let left = 45_u64.checked_sub(began.elapsed().as_secs())?;
            Some(format!("{left} s\nto go"))
        });
        sleep(Duration::from_secs(65)).await;
        events()
    });
    let layer = HeartbeatLayer::new(EVERY).with_requests(|_| true);
    let answer = layer
        .layer(service)
        .oneshot(Request::new(()))
        .await
        .unwrap();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    let expected = format!(": 25 s to go\n\n: 5 s to go\n\n{HEARTBEAT}{EVENTS}");
    assert_eq!(text, expected);
}

#[tokio::test(start_paused = true)]
async fn the_record_has_the_first_byte_of_the_response_and_not_of_a_heartbeat() {
    let service = service_fn(async |_: Request<()>| {
        sleep(Duration::from_secs(50)).await;
        events()
    });
    let layer = HeartbeatLayer::new(EVERY).with_requests(|_| true);
    let request = request("/v1/chat/completions");
    let record = Record::of(request.extensions()).unwrap().clone();
    let answer = layer.layer(service).oneshot(request).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let first = record.snapshot().time_to_first_byte;
    assert_eq!(first, Some(Duration::from_secs(50)));
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_after_a_heartbeat_drops_the_inner_future() {
    let held = Arc::new(());
    let guard = held.clone();
    let service = service_fn(move |_: Request<()>| {
        let guard = guard.clone();
        async move {
            let _guard = guard;
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
        }
    });
    let layer = HeartbeatLayer::new(EVERY).with_requests(|_| true);
    let service = layer.layer(service);
    let answer = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(Arc::strong_count(&held), 2);
    drop(answer);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_can_have_its_own_interval() {
    let seconds = Duration::from_secs;
    for (layers, own, heartbeats) in [
        (Some(EVERY), None, 2),
        (Some(EVERY), Some(Some(seconds(10))), 4),
        (Some(EVERY), Some(None), 0),
        (None, Some(Some(seconds(15))), 3),
        (None, None, 0),
    ] {
        let service = service_fn(move |_: Request<()>| async move {
            sleep(seconds(49)).await;
            events()
        });
        let layer = HeartbeatLayer::new(layers).with_requests(|_| true);
        let mut request = Request::new(());
        if let Some(own) = own {
            request.extensions_mut().insert(HeartbeatInterval(own));
        }
        let answer = layer.layer(service).oneshot(request).await.unwrap();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let expected = HEARTBEAT.repeat(heartbeats) + EVENTS;
        assert_eq!(text, expected, "{layers:?}, {own:?}");
    }
}
