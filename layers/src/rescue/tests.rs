#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{
    BoxError, Ending, EndpointTable, Fail, Failure, Outcome, Record, Side,
    endpoint::MethodNotAllowed,
};

#[derive(Debug)]
struct Busy;
impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("all backends are busy")
    }
}
impl std::error::Error for Busy {}
impl Fail for Busy {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "busy"
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_millis(1200))
    }
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert("x-busy", "very".parse().unwrap());
    }
}

/// A budget of a day is used up.
#[derive(Debug)]
struct Exhausted(Duration);
impl std::fmt::Display for Exhausted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no tokens are left today")
    }
}
impl std::error::Error for Exhausted {}
impl Fail for Exhausted {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::TOO_MANY_REQUESTS
    }
    fn kind(&self) -> &'static str {
        "exhausted"
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.0)
    }
}

fn busy() -> BoxError {
    Failure::from(Busy).into()
}

/// The steps of a backend's body, poll by poll; after the last step it stays pending.
#[derive(Clone, Debug)]
enum Step {
    Data(&'static str),
    Last(&'static str),
    Trailers,
    Broken,
    End,
}
use Step::{Broken, Data, End, Last, Trailers};

#[derive(Debug, Default)]
struct Scripted {
    steps: VecDeque<Step>,
    is_over: bool,
    _held: Arc<()>,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match self.steps.pop_front() {
            Some(Data(text)) => Some(Ok(Frame::data(Bytes::from(text)))),
            Some(Last(text)) => {
                self.is_over = true;
                Some(Ok(Frame::data(Bytes::from(text))))
            }
            Some(Trailers) => Some(Ok(Frame::trailers(HeaderMap::new()))),
            Some(Broken) => Some(Err(busy())),
            Some(End) => None,
            None if self.is_over => None,
            None => return Poll::Pending,
        })
    }
    fn is_end_stream(&self) -> bool {
        self.is_over
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

const NDJSON: &str = "application/x-ndjson";
const SSE: &str = "text/event-stream";
const BUSY_LINE: &str = "{\"error\":\"all backends are busy\"}\n";

fn request(method: Method, path: &str) -> (Request<()>, Record) {
    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    let route = EndpointTable::ollama().look_up(&method, path);
    let record = Record::new(Outcome::starting(Instant::now()));
    route.put_into(request.extensions_mut());
    record.clone().put_into(request.extensions_mut());
    (request, record)
}

/// The layer's response when the inner service responds with these steps.
async fn answer(
    layer: RescueLayer,
    path: &str,
    content_type: &'static str,
    steps: impl IntoIterator<Item = Step>,
) -> (Response<RescueBody<Scripted>>, Record) {
    let body = Scripted {
        steps: steps.into_iter().collect(),
        ..Scripted::default()
    };
    answer_of_body(layer, path, content_type, body).await
}

async fn answer_of_body(
    layer: RescueLayer,
    path: &str,
    content_type: &'static str,
    body: Scripted,
) -> (Response<RescueBody<Scripted>>, Record) {
    let body = Arc::new(Mutex::new(Some(body)));
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let body = body.lock().unwrap().take().unwrap();
        let answer = Response::builder().header("content-type", content_type);
        std::future::ready(Ok::<_, BoxError>(answer.body(body).unwrap()))
    }));
    let (request, record) = request(Method::POST, path);
    let Ok(answer) = service.oneshot(request).await;
    (answer, record)
}

/// What a client sees: the bytes, and whether the end was clean.
async fn seen(mut body: RescueBody<Scripted>) -> (String, bool) {
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            assert!(body.frame().await.is_none());
            return (text, false);
        };
        let is_last = frame.is_trailers() || body.is_end_stream();
        if let Ok(data) = frame.into_data() {
            text.push_str(std::str::from_utf8(&data).unwrap());
        }
        if is_last {
            break;
        }
    }
    (text, true)
}

async fn stream(
    path: &str,
    content_type: &'static str,
    steps: impl IntoIterator<Item = Step>,
) -> (String, bool, Outcome) {
    let (answer, record) = answer(RescueLayer::new(), path, content_type, steps).await;
    let (text, is_clean) = seen(answer.into_body()).await;
    (text, is_clean, record.snapshot())
}

async fn error_answer(
    method: Method,
    path: &str,
    error: impl Fn() -> BoxError + Clone,
) -> (Response<Bytes>, Outcome) {
    let service = RescueLayer::new().layer(service_fn(move |_: Request<()>| {
        std::future::ready(Err::<Response<Scripted>, _>(error()))
    }));
    let (mut request, record) = request(method, path);
    let id = "req_f6eb".parse().unwrap();
    request.headers_mut().insert("x-request-id", id);
    let Ok(answer) = service.oneshot(request).await;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, body), record.snapshot())
}

#[tokio::test]
async fn an_error_is_sent_in_the_dialect_of_the_route() {
    for (path, expected) in [
        ("/api/chat", r#"{"error":"all backends are busy"}"#),
        (
            "/v1/chat/completions",
            r#"{"error":{"message":"all backends are busy","type":"api_error","param":null,"code":null}}"#,
        ),
        (
            "/v1/messages",
            r#"{"type":"error","error":{"type":"overloaded_error","message":"all backends are busy"},"request_id":"req_f6eb"}"#,
        ),
        ("/nowhere", "all backends are busy"),
    ] {
        let (answer, outcome) = error_answer(Method::POST, path, busy).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "2");
        assert_eq!(answer.headers()["x-busy"], "very");
        assert_eq!(answer.body(), expected);
        assert_eq!(outcome.error, Some("busy"));
        assert_eq!(outcome.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(outcome.ending, Ending::Open, "the answer is yet to be sent");
    }
}

#[tokio::test]
async fn a_client_is_told_not_to_wait_longer_than_a_minute_by_itself() {
    for (seconds, told) in [
        (1, None),
        (60, None),
        (61, Some("false")),
        (45_771, Some("false")),
    ] {
        let error = move || Failure::from(Exhausted(Duration::from_secs(seconds))).into();
        let (answer, _) = error_answer(Method::POST, "/v1/chat/completions", error).await;
        assert_eq!(answer.headers()["retry-after"], seconds.to_string());
        let should_retry = answer.headers().get("x-should-retry");
        assert_eq!(
            should_retry.map(|value| value.to_str().unwrap()),
            told,
            "{seconds} s"
        );
    }
}

#[tokio::test]
async fn a_wrong_method_gets_ollamas_text() {
    let wrong = || -> BoxError {
        let allowed = Arc::new([Method::GET, Method::HEAD]);
        Failure::from(MethodNotAllowed { allowed }).into()
    };
    let (answer, _) = error_answer(Method::DELETE, "/api/tags", wrong).await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers()["allow"], "GET, HEAD");
    assert_eq!(answer.headers()["content-type"], "text/plain");
    assert_eq!(answer.body(), "405 method not allowed");
}

#[tokio::test]
async fn an_unknown_error_is_a_500_without_its_text() {
    let (answer, outcome) = error_answer(Method::POST, "/api/chat", || "a secret".into()).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!answer.body().is_empty());
    assert!(!String::from_utf8_lossy(answer.body()).contains("secret"));
    assert_eq!(outcome.error, Some("internal_error"));
}

#[tokio::test]
async fn a_readiness_error_becomes_a_response() {
    #[derive(Clone)]
    struct Unready;
    impl Service<Request<()>> for Unready {
        type Response = Response<Scripted>;
        type Error = BoxError;
        type Future = std::future::Pending<Result<Response<Scripted>, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err(busy()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            unreachable!("it is not ready")
        }
    }
    let (request, _) = request(Method::POST, "/api/chat");
    let Ok(answer) = RescueLayer::new().layer(Unready).oneshot(request).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_service_that_has_become_ready_again_is_called() {
    #[derive(Default)]
    struct ReadyLater {
        polls: usize,
    }
    impl Service<Request<()>> for ReadyLater {
        type Response = Response<String>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<String>, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            self.polls += 1;
            Poll::Ready(match self.polls {
                1 => Err(Failure::from(Busy).into()),
                _ => Ok(()),
            })
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            std::future::ready(Ok(Response::new("ready".to_owned())))
        }
    }
    let mut service = RescueLayer::new().layer(ReadyLater::default());
    for _ in 0..2 {
        let Ok(_) = ServiceExt::<Request<()>>::ready(&mut service).await;
    }
    let Ok(answer) = service.call(Request::new(())).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_killed_backend_ends_the_stream_with_an_error_line_and_unclean() {
    let (text, is_clean, outcome) =
        stream("/api/chat", NDJSON, [Data("{\"done\":false}\n"), Broken]).await;
    assert_eq!(text, format!("{{\"done\":false}}\n{BUSY_LINE}"));
    assert!(!is_clean);
    assert_eq!(outcome.ending, Ending::Broken);
    assert_eq!(outcome.error, Some("busy"));
}

#[tokio::test]
async fn with_clean_ends_the_end_after_an_error_line_is_clean() {
    let steps = [Data("{\"done\":false}\n"), Broken];
    let layer = RescueLayer::new().with_clean_ends();
    let (answer, record) = answer(layer, "/api/chat", NDJSON, steps).await;
    let (text, is_clean) = seen(answer.into_body()).await;
    assert!(text.ends_with(BUSY_LINE) && is_clean, "{text}");
    assert_eq!(record.snapshot().ending, Ending::Broken);
}

/// A server that has nothing to write flushes its buffer; one that gets an error does not.
#[tokio::test(start_paused = true)]
async fn before_an_unclean_end_there_is_time_to_flush_and_to_read() {
    let json = "application/json";
    for (content_type, steps, frames) in [
        (json, vec![Data("{\"model\""), Broken], 1),
        (NDJSON, vec![Data("{\"model\""), Broken], 2),
        (NDJSON, vec![Data("{}\n"), End], 2),
    ] {
        let (answer, _) = answer(RescueLayer::new(), "/api/chat", content_type, steps).await;
        let mut body = task::spawn(answer.into_body());
        for _ in 0..frames {
            let frame = assert_ready!(body.enter(|cx, body| body.poll_frame(cx)));
            assert!(frame.unwrap().unwrap().is_data());
            assert!(!body.is_end_stream());
        }
        let last_frame_at = Instant::now();
        assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
        let mut body = body.into_inner();
        let last = body.frame().await;
        assert!(last_frame_at.elapsed() > Duration::from_millis(100));
        assert_eq!(last.unwrap().unwrap_err().is::<BrokenStream>(), frames == 2);
        assert!(body.is_end_stream());
    }
}

#[tokio::test]
async fn a_line_that_breaks_is_ended_before_the_error_line() {
    for half in [
        "{\"done\":false}\n{\"do",
        "{\"a\":\"\u{e4}",
        "{",
        "{}\n\n  ",
    ] {
        let (text, is_clean, outcome) = stream("/api/chat", NDJSON, [Data(half), Broken]).await;
        assert_eq!(text, format!("{half}\n{BUSY_LINE}"));
        assert!(!is_clean);
        assert_eq!(
            (outcome.ending, outcome.error),
            (Ending::Broken, Some("busy"))
        );
    }
}

#[tokio::test]
async fn a_stream_that_breaks_inside_an_event_ends_unclean() {
    for half in [
        "data: {}\n\ndata: {\"id\"",
        "data: {}\n",
        "data: {}\r\n\r\n: a comm",
    ] {
        for end in [Broken, End] {
            let steps = [Data(half), end];
            let (text, is_clean, outcome) = stream("/v1/completions", SSE, steps).await;
            assert_eq!((&*text, is_clean), (half, false));
            assert_eq!(outcome.ending, Ending::Broken);
        }
    }
}

#[tokio::test]
async fn a_last_item_that_lacks_only_its_line_feed_is_not_followed_by_an_error() {
    let steps = [Data("{\"done\":true}"), Broken];
    let (text, is_clean, outcome) = stream("/api/chat", NDJSON, steps).await;
    assert_eq!((&*text, is_clean), ("{\"done\":true}", false));
    assert_eq!(outcome.ending, Ending::Broken);
}

#[tokio::test]
async fn a_clean_end_before_the_last_item_gets_an_error_frame() {
    const UNFINISHED: &str = "the backend ended its response before it was complete: its engine died, or \
                              the model repeated one token, which Ollama stops (a higher temperature or \
                              repeat_penalty helps)";
    for (path, content_type, item, frame) in [
        (
            "/api/generate",
            NDJSON,
            "{\"done\":false}\n",
            format!("{{\"error\":\"{UNFINISHED}\"}}\n"),
        ),
        (
            "/v1/completions",
            SSE,
            "data: {\"model\":\"\"}\n\n",
            format!(
                "data: {{\"error\":{{\"message\":\"{UNFINISHED}\",\"type\":\"api_error\",\"param\":null,\"code\":null}}}}\n\n"
            ),
        ),
        (
            "/v1/messages",
            SSE,
            "event: ping\ndata: {}\n\n",
            format!(
                "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"api_error\",\"message\":\"{UNFINISHED}\"}}}}\n\n"
            ),
        ),
    ] {
        for ending in [
            vec![Data(item), End],
            vec![Last(item)],
            vec![Data(item), Trailers],
        ] {
            let (text, is_clean, outcome) = stream(path, content_type, ending).await;
            assert_eq!(text, format!("{item}{frame}"));
            assert!(!is_clean);
            assert_eq!(outcome.error, Some("answer_unfinished"));
        }
    }
}

#[tokio::test]
async fn a_stream_of_responses_fails_with_the_created_response() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_7\"}}\n\n";
    let item = "event: response.output_text.delta\ndata: {\"sequence_number\":58}\n\n";
    let (first, second) = created.split_at(50);
    for (steps, id) in [
        (vec![Data(created), Data(item), End], "resp_7"),
        (
            vec![Data(first), Data(second), Data(item), Broken],
            "resp_7",
        ),
        (vec![Data(item), End], "resp_unknown"),
    ] {
        let (text, is_clean, outcome) = stream("/v1/responses", SSE, steps).await;
        let (_, event) = text
            .split_once("\n\nevent: response.failed\ndata: ")
            .unwrap();
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        assert_eq!(event["type"], "response.failed");
        assert_eq!(event["sequence_number"], 59);
        let response = &event["response"];
        assert_eq!(
            (&response["id"], &response["status"]),
            (&id.into(), &"failed".into())
        );
        assert_eq!(response["error"]["code"], "server_error");
        assert!(response["error"]["message"].is_string() && is_clean);
        assert_eq!(outcome.ending, Ending::Broken);
    }
}

#[tokio::test]
async fn a_response_that_failed_at_the_backend_is_not_followed_by_another_event() {
    let item = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{}}\n\n";
    let (text, is_clean, outcome) = stream("/v1/responses", SSE, [Data(item), End]).await;
    assert_eq!((&*text, is_clean), (item, true));
    assert_eq!(outcome.error, Some("backend_error"));
}

#[tokio::test]
async fn a_clean_end_inside_a_line_gets_an_error_frame() {
    let (text, is_clean, outcome) = stream("/api/chat", NDJSON, [Last("{\"done\":fa")]).await;
    assert!(
        text.starts_with("{\"done\":fa\n{\"error\":\"the backend ended"),
        "{text}"
    );
    assert!(!is_clean);
    assert_eq!(outcome.error, Some("answer_unfinished"));
}

#[tokio::test]
async fn a_complete_stream_passes_unchanged_even_if_an_error_follows() {
    let done = "{\"done\":true}\n";
    for ending in [
        vec![Data(done), End],
        vec![Last(done)],
        vec![Data(done), Trailers],
        vec![Data(done), Broken],
    ] {
        let (text, is_clean, outcome) = stream("/api/chat", NDJSON, ending).await;
        assert_eq!((&*text, is_clean), (done, true));
        assert_eq!((outcome.ending, outcome.error), (Ending::Open, None));
    }
}

#[tokio::test]
async fn a_backends_own_error_line_is_not_followed_by_another() {
    let line = "{\"error\":\"unexpected EOF\"}\n";
    for ending in [
        vec![Data(line), End],
        vec![Last(line)],
        vec![Data(line), Broken],
    ] {
        let (text, is_clean, outcome) = stream("/api/chat", NDJSON, ending).await;
        assert_eq!((&*text, is_clean), (line, true));
        assert_eq!(outcome.ending, Ending::Broken);
        assert_eq!(outcome.error, Some("backend_error"));
    }
}

#[tokio::test]
async fn a_pull_may_end_with_any_line_but_not_break() {
    let line = "{\"status\":\"pulling\"}\n";
    let (text, _, outcome) = stream("/api/pull", NDJSON, [Data(line), End]).await;
    assert_eq!((&*text, outcome.error), (line, None));
    let (text, ..) = stream("/api/pull", NDJSON, [Data(line), Broken]).await;
    assert_eq!(
        text,
        format!("{line}{{\"error\":\"all backends are busy\"}}\n")
    );
}

#[tokio::test]
async fn a_response_that_is_not_a_stream_fails_unclean_or_ends_unchanged() {
    let json = "application/json; charset=utf-8";
    let (text, is_clean, outcome) = stream("/api/chat", json, [Data("{\n"), Broken]).await;
    assert_eq!((&*text, is_clean), ("{\n", false));
    assert_eq!(outcome.ending, Ending::Broken);
    let (text, is_clean, outcome) = stream("/api/chat", json, [Data("{}"), End]).await;
    assert_eq!((&*text, is_clean, outcome.error), ("{}", true, None));
}

#[tokio::test]
async fn nothing_is_added_to_an_answer_of_declared_length() {
    let body = Scripted {
        steps: [Data("{\"done\":false}\n"), Broken].into(),
        ..Scripted::default()
    };
    let body = Mutex::new(Some(body));
    let service = RescueLayer::new().layer(service_fn(|_: Request<()>| {
        let answer = Response::builder()
            .header("content-type", NDJSON)
            .header("content-length", 100);
        let body = body.lock().unwrap().take().unwrap();
        std::future::ready(Ok::<_, BoxError>(answer.body(body).unwrap()))
    }));
    let (request, _) = request(Method::POST, "/api/chat");
    let Ok(answer) = service.oneshot(request).await;
    let (text, is_clean) = seen(answer.into_body()).await;
    assert_eq!((&*text, is_clean), ("{\"done\":false}\n", false));
}

#[tokio::test]
async fn the_backend_is_dropped_before_the_client_has_read_the_error_frame() {
    let is_held = Arc::new(());
    let body = Scripted {
        steps: [Broken].into(),
        _held: is_held.clone(),
        ..Scripted::default()
    };
    let (mut answer, _) = answer_of_body(RescueLayer::new(), "/api/chat", NDJSON, body).await;
    assert!(answer.body_mut().frame().await.is_some());
    assert_eq!(Arc::strong_count(&is_held), 1);
}

#[tokio::test]
async fn a_cutoff_ends_a_waiting_stream_with_an_error_frame() {
    let cutoff = CancellationToken::new();
    let layer = RescueLayer::new().with_cutoff(cutoff.clone());
    let (answer, record) = answer(layer, "/api/chat", NDJSON, [Data("{}\n")]).await;
    let mut body = task::spawn(answer.into_body());
    let mut poll = || body.enter(|cx, body| body.poll_frame(cx));
    assert!(assert_ready!(poll()).is_some());
    assert_pending!(poll());
    assert_pending!(poll());
    assert!(!body.is_woken());
    cutoff.cancel();
    assert!(body.is_woken(), "the waiting task is woken");
    let frame = assert_ready!(body.enter(|cx, body| body.poll_frame(cx)));
    let data = frame.unwrap().unwrap().into_data().unwrap();
    assert_eq!(data, "{\"error\":\"the gateway is shutting down\"}\n");
    assert_eq!(record.snapshot().error, Some("shutting_down"));
}

#[tokio::test]
async fn a_cutoff_follows_a_stream_to_another_task() {
    let cutoff = CancellationToken::new();
    let layer = RescueLayer::new().with_cutoff(cutoff.clone());
    let (answer, _) = answer(layer, "/api/chat", NDJSON, []).await;
    let mut body = task::spawn(answer.into_body());
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    let mut body = task::spawn(body.into_inner());
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    cutoff.cancel();
    assert!(body.is_woken());
}

#[tokio::test]
async fn a_cutoff_ends_a_request_that_waits_for_a_head() {
    let cutoff = CancellationToken::new();
    let service = RescueLayer::new()
        .with_cutoff(cutoff.clone())
        .layer(service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Scripted>, BoxError>>()
        }));
    let (request, _) = request(Method::POST, "/api/chat");
    let mut answer = task::spawn(service.oneshot(request));
    assert_pending!(answer.poll());
    cutoff.cancel();
    let Ok(answer) = assert_ready!(answer.poll());
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_cutoff_without_an_owner_never_fires() {
    let cutoff = CancellationToken::new();
    let layer = RescueLayer::new().with_cutoff(cutoff.clone());
    let (answer, _) = answer(layer, "/api/chat", NDJSON, []).await;
    let mut body = task::spawn(answer.into_body());
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    drop(cutoff);
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
}

#[tokio::test]
async fn the_answer_to_a_head_is_not_watched() {
    let service = RescueLayer::new().layer(service_fn(|_: Request<()>| {
        let answer = Response::builder().header("content-type", NDJSON);
        let body = Scripted {
            steps: [End].into(),
            ..Scripted::default()
        };
        std::future::ready(Ok::<_, Infallible>(answer.body(body).unwrap()))
    }));
    let (request, record) = request(Method::HEAD, "/api/chat");
    let Ok(answer) = service.oneshot(request).await;
    assert_eq!(seen(answer.into_body()).await, (String::new(), true));
    assert_eq!(record.snapshot().error, None);
}

/// The layer's response to a backend's response without a body.
async fn wordless(method: Method, path: &str, status: u16) -> (Response<String>, bool) {
    let service = RescueLayer::new().layer(service_fn(move |_: Request<()>| {
        let answer = Response::builder().status(status);
        let answer = answer.header("content-length", "0").header("x-more", "1");
        let body = Scripted {
            is_over: true,
            ..Scripted::default()
        };
        std::future::ready(Ok::<_, Infallible>(answer.body(body).unwrap()))
    }));
    let (request, record) = request(method, path);
    record.update(|outcome| outcome.backend = Some("gpu-1".into()));
    let Ok(answer) = service.oneshot(request).await;
    let (head, body) = answer.into_parts();
    let (text, is_clean) = seen(body).await;
    (Response::from_parts(head, text), is_clean)
}

#[tokio::test]
async fn an_empty_error_response_gets_a_text() {
    for (path, status, body) in [
        (
            "/api/chat",
            503,
            r#"{"error":"the backend gpu-1 responded with 503 Service Unavailable and no reason"}"#,
        ),
        (
            "/api/generate",
            403,
            r#"{"error":"the backend gpu-1 responded with 403 Forbidden and no reason"}"#,
        ),
        (
            "/v1/messages",
            502,
            r#"{"type":"error","error":{"type":"api_error","message":"the backend gpu-1 responded with 502 Bad Gateway and no reason"}}"#,
        ),
    ] {
        let (answer, is_clean) = wordless(Method::POST, path, status).await;
        assert_eq!((answer.status().as_u16(), is_clean), (status, true));
        assert_eq!(answer.body(), body);
        assert_eq!(
            answer.headers()["content-type"],
            "application/json; charset=utf-8"
        );
        assert_eq!(answer.headers()["x-more"], "1");
        assert!(!answer.headers().contains_key("content-length"));
    }
    for (method, status) in [
        (Method::HEAD, 404),
        (Method::POST, 200),
        (Method::POST, 204),
    ] {
        let (answer, _) = wordless(method, "/api/blobs/sha256:00", status).await;
        assert_eq!((answer.status().as_u16(), &**answer.body()), (status, ""));
    }
}

/// The layer's response to an error of unknown length with these frames.
async fn error_with(frames: &[&'static str]) -> String {
    let steps: VecDeque<Step> = frames.iter().map(|text| Data(text)).chain([End]).collect();
    let service = RescueLayer::new().layer(service_fn(move |_: Request<()>| {
        let body = Scripted {
            steps: steps.clone(),
            ..Scripted::default()
        };
        let answer = Response::builder().status(502).body(body).unwrap();
        std::future::ready(Ok::<_, Infallible>(answer))
    }));
    let (request, _) = request(Method::POST, "/api/chat");
    let Ok(answer) = service.oneshot(request).await;
    let (text, is_clean) = seen(answer.into_body()).await;
    assert!(is_clean);
    text
}

#[tokio::test]
async fn an_error_of_unknown_length_gets_a_text_if_it_ends_without_one() {
    let text = r#"{"error":"the server responded with 502 Bad Gateway and no reason"}"#;
    for blank in [&[] as &[_], &["\r\n"], &["", " ", "\n"]] {
        let seen = error_with(blank).await;
        assert_eq!(seen, format!("{}{text}", blank.concat()));
    }
    for given in [&["nginx says no"] as &[_], &["\n", "{\"error\":\"busy\"}"]] {
        assert_eq!(error_with(given).await, given.concat());
    }
}
