mod decisions;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{BoxError, EndpointTable, ErrorCause, Fail, Failure, Replay, Retryable, Side};

#[derive(Clone, Debug, PartialEq)]
struct Whole(&'static str);

impl Replay for Whole {
    fn replay(&self) -> Option<Self> {
        (self.0 != "a stream").then(|| self.clone())
    }
}

#[derive(Clone, Copy, Debug)]
struct Broke {
    kind: &'static str,
    retryable: Retryable,
}

impl fmt::Display for Broke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

impl std::error::Error for Broke {}

impl Fail for Broke {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        self.kind
    }
    fn retryable(&self) -> Retryable {
        self.retryable
    }
}

const REFUSED: Result<u16, Broke> = Err(Broke {
    kind: "connect_failed",
    retryable: Retryable::Yes,
});
const SILENT: Result<u16, Broke> = Err(Broke {
    kind: "first_byte_timeout",
    retryable: Retryable::Once,
});
const FATAL: Result<u16, Broke> = Err(Broke {
    kind: "invalid_answer",
    retryable: Retryable::No,
});

type Said = http_body_util::Full<bytes::Bytes>;
type Seen = Arc<Mutex<Vec<(u32, Vec<Arc<str>>)>>>;

/// A service with these responses in turn, and the attempts that it saw.
fn scripted(
    script: &[Result<u16, Broke>],
) -> (
    impl Service<Request<Whole>, Response = Response<Said>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + 'static,
    Seen,
) {
    let script: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(script.iter().copied().collect()));
    let seen = Seen::default();
    let noted = seen.clone();
    let service = service_fn(move |request: Request<Whole>| {
        let attempts = Attempts::of(request.extensions())
            .expect("it is there")
            .clone();
        noted
            .lock()
            .expect("no panic")
            .push((attempts.number(), attempts.tried()));
        attempts.record_backend(format!("gpu-{}", attempts.number()).into());
        let next = script
            .lock()
            .expect("no panic")
            .pop_front()
            .expect("the script is longer");
        async move {
            match next {
                Ok(status) => Ok(Response::builder()
                    .status(status)
                    .body(Said::from("busy"))
                    .expect("valid")),
                Err(broke) => Err(Failure::from(broke).into()),
            }
        }
    });
    (service, seen)
}

fn request(method: Method, path: &str, body: &'static str) -> Request<Whole> {
    let mut request = Request::new(Whole(body));
    *request.method_mut() = method.clone();
    let route = EndpointTable::ollama().look_up(&method, path);
    route.put_into(request.extensions_mut());
    request
}

fn chat() -> Request<Whole> {
    request(Method::POST, "/api/chat", "{}")
}

async fn outcome(
    layer: &RetryLayer,
    script: &[Result<u16, Broke>],
    request: Request<Whole>,
) -> (String, usize) {
    let (service, seen) = scripted(script);
    let answer = match layer.layer(service).oneshot(request).await {
        Ok(answer) => answer.status().as_u16().to_string(),
        Err(error) => error.to_string(),
    };
    let attempts = seen.lock().expect("no panic").len();
    (answer, attempts)
}

#[tokio::test(start_paused = true)]
async fn after_a_refused_or_busy_backend_another_is_tried() {
    let layer = RetryLayer::new(RetryBudget::default());
    assert_eq!(
        outcome(&layer, &[REFUSED, Ok(503), Ok(200)], chat()).await,
        ("200".into(), 3)
    );
}

#[tokio::test(start_paused = true)]
async fn each_attempt_knows_the_backends_tried_before() {
    let (service, seen) = scripted(&[REFUSED, REFUSED, Ok(200)]);
    let service = RetryLayer::new(RetryBudget::default()).layer(service);
    service.oneshot(chat()).await.expect("the third succeeds");
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen[2], (3, vec!["gpu-1".into(), "gpu-2".into()]));
}

#[tokio::test(start_paused = true)]
async fn the_last_response_goes_to_the_client_unchanged() {
    let layer = RetryLayer::new(RetryBudget::default());
    assert_eq!(
        outcome(&layer, &[Ok(503); 3], chat()).await,
        ("503".into(), 3)
    );
    assert_eq!(
        outcome(&layer, &[REFUSED; 3], chat()).await,
        ("connect_failed".into(), 3)
    );
    let once = layer.with_attempts(NonZeroU32::MIN);
    assert_eq!(
        outcome(&once, &[REFUSED], chat()).await,
        ("connect_failed".into(), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_final_result_is_not_retried() {
    let layer = RetryLayer::new(RetryBudget::default());
    for answer in [Ok(200), Ok(404), Ok(500), FATAL] {
        assert_eq!(outcome(&layer, &[answer], chat()).await.1, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_changes_a_server_is_never_sent_twice() {
    let layer = RetryLayer::new(RetryBudget::default());
    for (method, path) in [
        (Method::POST, "/api/pull"),
        (Method::POST, "/api/create"),
        (Method::DELETE, "/api/delete"),
        (Method::POST, "/api/blobs/sha256:00"),
    ] {
        assert_eq!(
            outcome(&layer, &[REFUSED], request(method, path, "{}"))
                .await
                .1,
            1,
            "{path}"
        );
    }
    assert_eq!(
        outcome(
            &layer,
            &[REFUSED],
            request(Method::POST, "/api/chat", "a stream")
        )
        .await
        .1,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_byte_timeout_is_retried_at_most_once() {
    let layer = RetryLayer::new(RetryBudget::default());
    assert_eq!(
        outcome(&layer, &[SILENT, SILENT], chat()).await,
        ("first_byte_timeout".into(), 2)
    );
    assert_eq!(
        outcome(&layer, &[SILENT, Ok(200)], chat()).await,
        ("200".into(), 2)
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_ends_the_retries_of_all_clones() {
    let layer = RetryLayer::new(RetryBudget::new(0.0, 2.0));
    assert_eq!(outcome(&layer, &[Ok(503); 3], chat()).await.1, 3);
    assert_eq!(outcome(&layer.clone(), &[Ok(503); 3], chat()).await.1, 1);
}

#[tokio::test(start_paused = true)]
async fn the_observer_receives_the_reason() {
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let reported = reasons.clone();
    let layer = RetryLayer::new(RetryBudget::default()).with_observer(move |event| {
        assert!(event.is_retry());
        reported.lock().expect("no panic").push(event.reason);
    });
    outcome(&layer, &[REFUSED, Ok(503), Ok(200)], chat()).await;
    assert_eq!(
        *reasons.lock().expect("no panic"),
        ["connect_failed", "status_503"]
    );
}

/// The decision about the last attempt, as the observer receives it.
async fn last_decision(layer: RetryLayer, script: &[Result<u16, Broke>]) -> Option<Decision> {
    let last = Arc::new(Mutex::new(None));
    let reported = last.clone();
    let layer = layer.with_observer(move |event| {
        *reported.lock().expect("no panic") = Some(event.decision);
    });
    outcome(&layer, script, chat()).await;
    *last.lock().expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn the_observer_receives_the_reason_against_a_retry() {
    let poor = RetryLayer::new(RetryBudget::new(0.0, 0.0));
    assert_eq!(
        last_decision(poor, &[Ok(503)]).await,
        Some(Decision::BudgetUsedUp)
    );
    let rich = RetryLayer::new(RetryBudget::default());
    assert_eq!(
        last_decision(rich.clone(), &[Ok(503); 3]).await,
        Some(Decision::AttemptsUsedUp)
    );
    assert_eq!(last_decision(rich, &[Ok(404)]).await, None);
}

#[tokio::test(start_paused = true)]
async fn the_statuses_to_retry_can_be_configured() {
    let layer = RetryLayer::new(RetryBudget::default())
        .with_statuses([StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT]);
    let script = [Ok(502), Ok(504), Ok(503)];
    assert_eq!(outcome(&layer, &script, chat()).await, ("503".into(), 3));
}

#[tokio::test(start_paused = true)]
async fn without_a_route_only_safe_methods_are_sent_twice() {
    let layer = RetryLayer::new(RetryBudget::default());
    let plain = |method: Method| {
        let mut request = Request::new(Whole("{}"));
        *request.method_mut() = method;
        request
    };
    let script = [REFUSED, Ok(200)];
    assert_eq!(outcome(&layer, &script, plain(Method::GET)).await.1, 2);
    assert_eq!(outcome(&layer, &script, plain(Method::POST)).await.1, 1);
    let all = layer.with_replayable(|_, _| true);
    assert_eq!(outcome(&all, &script, plain(Method::POST)).await.1, 2);
}

async fn time_for(busy: u32, retry_after: &'static str, backends: u32) -> (u16, Duration) {
    let layer = RetryLayer::new(RetryBudget::default());
    time_by(layer, busy, retry_after, backends).await
}

/// Responds with 503 and a `Retry-After` to the first `busy` attempts; one backend, or several.
async fn time_by(
    layer: RetryLayer,
    busy: u32,
    retry_after: &'static str,
    backends: u32,
) -> (u16, Duration) {
    let service = service_fn(move |request: Request<Whole>| async move {
        let attempts = Attempts::of(request.extensions()).expect("it is there");
        let number = attempts.number();
        attempts.record_untried(backends.saturating_sub(number) as usize);
        attempts.record_backend(format!("gpu-{}", number % backends).into());
        let status = if number <= busy { 503 } else { 200 };
        let answer = Response::builder()
            .status(status)
            .header("retry-after", retry_after);
        Ok::<_, BoxError>(answer.body(Said::default())?)
    });
    let start = Instant::now();
    let answer = layer.layer(service).oneshot(chat()).await;
    let status = answer.expect("no error").status().as_u16();
    (status, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn another_backend_is_tried_at_once_despite_retry_after() {
    assert_eq!(time_for(1, "30", 2).await, (200, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_only_backend_is_retried_after_its_retry_after_within_limits() {
    let (status, time) = time_for(1, "2", 1).await;
    assert_eq!(status, 200);
    assert!(
        time >= Duration::from_secs(2) && time < Duration::from_secs(3),
        "{time:?}"
    );
    assert_eq!(time_for(1, "3", 1).await, (503, Duration::ZERO));
}

#[cfg(feature = "outcome")]
#[tokio::test(start_paused = true)]
async fn the_pause_before_an_attempt_is_in_the_record() {
    use crate::{Outcome, Record};
    let record = Record::new(Outcome::starting(Instant::now()));
    let mut request = chat();
    record.clone().put_into(request.extensions_mut());
    let service = service_fn(async |request: Request<Whole>| {
        let attempts = Attempts::of(request.extensions()).expect("it is there");
        attempts.record_untried(0);
        attempts.record_backend("gpu-1".into());
        let status = if attempts.number() == 1 { 503 } else { 200 };
        let answer = Response::builder()
            .status(status)
            .header("retry-after", "2");
        Ok::<_, BoxError>(answer.body(Said::default())?)
    });
    let start = Instant::now();
    let layer = RetryLayer::new(RetryBudget::default());
    let answer = layer.layer(service).oneshot(request).await;
    assert_eq!(answer.expect("no error").status(), 200);
    assert_eq!(record.snapshot().waited, start.elapsed());
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_busy_response_is_final_without_another_backend() {
    let layer = || RetryLayer::new(RetryBudget::default()).with_statuses_only_elsewhere();
    assert_eq!(
        time_by(layer(), 1, "1", 1).await,
        (503, Duration::ZERO),
        "one backend"
    );
    assert_eq!(
        time_by(layer(), 1, "1", 2).await,
        (200, Duration::ZERO),
        "another one"
    );
    assert_eq!(
        time_by(layer(), 2, "1", 2).await,
        (503, Duration::ZERO),
        "both are busy"
    );
    // An error is different: the backend may be available again soon.
    assert_eq!(outcome(&layer(), &[REFUSED, Ok(200)], chat()).await.1, 2);
}

#[tokio::test]
async fn an_error_that_the_backend_did_not_cause_is_final() {
    for (cause, attempts) in [
        (None, 3),
        (Some(ErrorCause::Request), 1),
        (Some(ErrorCause::Model), 1),
    ] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        let service = service_fn(move |request: Request<Whole>| {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            let attempts = Attempts::of(request.extensions()).expect("it is there");
            attempts.record_backend(format!("gpu-{number}").into());
            let mut answer = Response::new(Said::default());
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            if let Some(cause) = cause {
                answer.extensions_mut().insert(cause);
            }
            std::future::ready(Ok::<_, BoxError>(answer))
        });
        let layer = RetryLayer::new(RetryBudget::default());
        let answer = layer.layer(service).oneshot(chat()).await;
        assert_eq!(answer.expect("no error").status(), 503);
        assert_eq!(sent.load(Ordering::Relaxed), attempts, "{cause:?}");
    }
}

/// A body that records how often it was polled.
struct Noted {
    frames: usize,
    frame: Bytes,
    is_stuck: bool,
    read: Arc<AtomicUsize>,
}

impl Body for Noted {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.frames == 0 && self.is_stuck {
            return Poll::Pending;
        }
        self.read.fetch_add(1, Ordering::Relaxed);
        let Some(frames) = self.frames.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.frames = frames;
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

/// How often the body of the first response was read, and the status of the last.
async fn reads(
    layer: RetryLayer,
    frames: usize,
    frame: &'static [u8],
    is_stuck: bool,
) -> (usize, u16) {
    let read = Arc::new(AtomicUsize::new(0));
    let noted = read.clone();
    let service = service_fn(move |request: Request<Whole>| {
        let attempts = Attempts::of(request.extensions()).expect("it is there");
        let is_first = attempts.number() == 1;
        let body = Noted {
            frames,
            frame: Bytes::from_static(frame),
            is_stuck,
            read: if is_first {
                noted.clone()
            } else {
                Arc::default()
            },
        };
        let status = if is_first { 503 } else { 200 };
        std::future::ready(Ok::<_, Infallible>(
            Response::builder()
                .status(status)
                .body(body)
                .expect("valid"),
        ))
    });
    let answer = layer
        .layer(service)
        .oneshot(chat())
        .await
        .expect("no error");
    (read.load(Ordering::Relaxed), answer.status().as_u16())
}

#[tokio::test(start_paused = true)]
async fn a_small_discarded_response_is_read_to_its_end() {
    let layer = RetryLayer::new(RetryBudget::default());
    assert_eq!(reads(layer, 2, b"busy", false).await, (3, 200));
}

#[tokio::test(start_paused = true)]
async fn a_large_or_slow_discarded_response_is_dropped() {
    let layer = RetryLayer::new(RetryBudget::default());
    let (read, status) = reads(layer.clone(), 1000, &[b'x'; 32 << 10], false).await;
    assert_eq!((read, status), (3, 200));
    let start = Instant::now();
    assert_eq!(reads(layer, 1, b"bu", true).await, (1, 200));
    assert!(start.elapsed() < Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_passed_on_is_not_read() {
    let once = RetryLayer::new(RetryBudget::default()).with_attempts(NonZeroU32::MIN);
    assert_eq!(reads(once, 2, b"busy", false).await, (0, 503));
}

#[tokio::test]
async fn a_service_whose_readiness_failed_is_not_used_again() {
    #[derive(Clone, Default)]
    struct FailsSecondReadiness {
        polls: Arc<AtomicUsize>,
    }
    impl Service<Request<Whole>> for FailsSecondReadiness {
        type Response = Response<Said>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<Said>, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(match self.polls.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err(Failure::from(REFUSED.expect_err("it is refused")).into()),
            })
        }
        fn call(&mut self, _: Request<Whole>) -> Self::Future {
            std::future::ready(Err(Failure::from(SILENT.expect_err("it is silent")).into()))
        }
    }
    let inner = FailsSecondReadiness::default();
    let service = RetryLayer::new(RetryBudget::default()).layer(inner.clone());
    let error = service
        .oneshot(Request::new(Whole("a body")))
        .await
        .expect_err("the service is not ready");
    let failure = Failure::find(&*error).expect("a failure");
    assert_eq!(failure.kind(), "connect_failed");
    assert_eq!(inner.polls.load(Ordering::Relaxed), 2);
}
