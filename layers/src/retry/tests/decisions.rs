//! What the observer hears of attempts that are not repeated, and the options of one request.

use std::io;

use http_body_util::Empty;

use super::*;
use crate::breaker::CircuitOpen;

type Events = Arc<Mutex<Vec<RetryEvent>>>;

/// A layer of up to three attempts, and the events that its observer received.
fn observed() -> (RetryLayer, Events) {
    let events = Events::default();
    let kept = events.clone();
    let layer = RetryLayer::new(RetryBudget::default())
        .with_observer(move |event| kept.lock().expect("no panic").push(*event));
    (layer, events)
}

/// The error of a service that always fails so, and the events.
async fn events_of(
    layer: (RetryLayer, Events),
    fail: fn() -> BoxError,
    request: Request<Whole>,
) -> (BoxError, Vec<(&'static str, u32, Decision)>) {
    let service = service_fn(move |_| {
        let error = fail();
        async { Err::<Response<Empty<Bytes>>, BoxError>(error) }
    });
    let answer = layer.0.layer(service).oneshot(request).await;
    let events = layer.1.lock().expect("no panic");
    let events = events
        .iter()
        .map(|event| (event.reason, event.attempt, event.decision));
    (answer.expect_err("it fails"), events.collect())
}

fn refused() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionRefused).into()
}

fn unknown() -> BoxError {
    "an error of an unknown kind".into()
}

fn circuit_open() -> BoxError {
    let retry_after = Duration::from_secs(1);
    Failure::from(CircuitOpen { retry_after }).into()
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_known_kind_is_retried_and_returned_as_a_failure() {
    let (error, events) = events_of(observed(), refused, chat()).await;
    let decisions: Vec<_> = events.iter().map(|(reason, ..)| *reason).collect();
    assert_eq!(decisions, ["connect_failed"; 3]);
    let failure = Failure::find(&*error).expect("it is classified");
    assert_eq!(failure.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn the_observer_hears_of_an_error_of_an_unknown_kind_which_is_final() {
    let (error, events) = events_of(observed(), unknown, chat()).await;
    assert_eq!(events, [("unclassified", 1, Decision::Unclassified)]);
    assert!(Failure::find(&*error).is_none());
}

#[tokio::test]
async fn the_observer_hears_why_a_request_cannot_be_sent_twice() {
    for (path, body, expected) in [
        ("/api/pull", "{}", Decision::RequestNotReplayable),
        ("/api/unknown", "{}", Decision::RequestNotReplayable),
        ("/api/chat", "a stream", Decision::BodyNotReplayable),
    ] {
        let request = request(Method::POST, path, body);
        let (_, events) = events_of(observed(), refused, request).await;
        assert_eq!(events, [("connect_failed", 1, expected)], "{path}");
    }
    let (layer, events) = observed();
    let pull = request(Method::POST, "/api/pull", "{}");
    assert_eq!(outcome(&layer, &[Ok(503)], pull).await.1, 1);
    let event = events.lock().expect("no panic")[0];
    assert_eq!(
        (event.reason, event.decision),
        ("status_503", Decision::RequestNotReplayable)
    );
}

#[tokio::test]
async fn a_success_and_an_error_that_is_final_by_its_meaning_are_no_events() {
    let (layer, events) = observed();
    for answer in [Ok(200), Ok(404), FATAL] {
        let pull = request(Method::POST, "/api/pull", "{}");
        outcome(&layer, &[answer], pull).await;
        outcome(&layer, &[answer], chat()).await;
    }
    assert!(events.lock().expect("no panic").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_not_waited_for() {
    let started = Instant::now();
    let (error, events) = events_of(observed(), circuit_open, chat()).await;
    assert_eq!(events, [("circuit_open", 1, Decision::NoOtherBackend)]);
    assert_eq!(started.elapsed(), Duration::ZERO);
    let failure = Failure::find(&*error).expect("a failure");
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn the_failure_that_opened_the_breaker_is_returned_and_not_the_refusal() {
    let layer = RetryLayer::new(RetryBudget::default());
    let service = layer.layer(service_fn(|request: Request<Whole>| {
        let error = match Attempts::of(request.extensions()).map(Attempts::number) {
            Some(1) => refused(),
            _ => circuit_open(),
        };
        async { Err::<Response<Empty<Bytes>>, BoxError>(error) }
    }));
    let error = service.oneshot(chat()).await.expect_err("it fails");
    let failure = Failure::find(&*error).expect("a failure");
    assert_eq!(failure.kind(), "connect_failed");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_passed_by_at_another_backend() {
    const OPEN: Result<u16, Broke> = Err(Broke {
        kind: "circuit_open",
        retryable: Retryable::Elsewhere,
    });
    let (layer, _) = observed();
    let started = Instant::now();
    let found = outcome(&layer, &[OPEN, Ok(200)], chat()).await;
    assert_eq!(found, ("200".into(), 2));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn outside_of_the_table_the_method_decides() {
    let layer = RetryLayer::new(RetryBudget::default());
    for (method, attempts) in [(Method::GET, 3), (Method::POST, 1)] {
        let request = request(method, "/v2/none", "{}");
        assert_eq!(outcome(&layer, &[REFUSED; 5], request).await.1, attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn the_options_of_a_request_decide_for_it_alone() {
    let layer = RetryLayer::new(RetryBudget::default());
    let five = NonZeroU32::new(5).expect("not zero");
    let with = |options: RetryOptions, mut request: Request<Whole>| {
        request.extensions_mut().insert(options);
        request
    };
    let pull = || request(Method::POST, "/api/pull", "{}");
    for (request, expected) in [
        (with(RetryOptions::new(), chat()), 3),
        (with(RetryOptions::new().without_retries(), chat()), 1),
        (with(RetryOptions::new().with_attempts(five), chat()), 5),
        (with(RetryOptions::new().with_replayable(false), chat()), 1),
        (with(RetryOptions::new().with_replayable(true), pull()), 3),
        (chat(), 3),
        (pull(), 1),
    ] {
        let attempts = outcome(&layer, &[REFUSED; 5], request).await.1;
        assert_eq!(attempts, expected);
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = self.0.lock().expect("no panic");
        let text = String::from_utf8_lossy(&text);
        text.lines().map(str::to_owned).collect()
    }
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_post_without_a_route_that_is_not_retried_is_warned_of_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (layer, events) = observed();
    let no_route = || {
        let mut post = Request::new(Whole("{}"));
        *post.method_mut() = Method::POST;
        post
    };
    // A known answer to the question, and a success, are no reason for a warning.
    outcome(&layer, &[REFUSED], request(Method::POST, "/api/pull", "{}")).await;
    outcome(&layer, &[Ok(200)], no_route()).await;
    assert_eq!(log.lines(), Vec::<String>::new());
    for _ in 0..2 {
        outcome(&layer, &[REFUSED], no_route()).await;
    }
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["WARN", "EndpointLayer", "with_replayable", "connect_failed"] {
        assert!(lines[0].contains(part), "{lines:?}");
    }
    let last = *events.lock().expect("no panic").last().expect("an event");
    assert_eq!(last.decision, Decision::RequestNotReplayable);

    for _ in 0..2 {
        outcome(&layer, &[REFUSED], request(Method::POST, "/v2/none", "{}")).await;
        events_of(observed_by(&layer), unknown, chat()).await;
    }
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].contains("EndpointTable::route"), "{lines:?}");
    assert!(lines[2].contains("ClassifyLayer"), "{lines:?}");
}

/// The same layer, whose events are not of interest.
#[cfg(debug_assertions)]
fn observed_by(layer: &RetryLayer) -> (RetryLayer, Events) {
    (layer.clone(), Events::default())
}

#[test]
fn common_bodies_are_sent_again_and_a_stream_among_them_is_not() {
    use http_body_util::{Either, Full};
    fn again<B: Replay + Body<Data = Bytes>>(body: &B) -> Option<u64> {
        body.replay()?.size_hint().exact()
    }
    let full = Full::new(Bytes::from("abc"));
    assert_eq!(again(&full), Some(3));
    assert_eq!(again(&Empty::<Bytes>::new()), Some(0));
    assert_eq!(again(&"abc".to_owned()), Some(3));
    assert_eq!(again(&Box::new(full.clone())), Some(3));
    type Either2 = Either<Full<Bytes>, Empty<Bytes>>;
    assert_eq!(again(&Either2::Left(full.clone())), Some(3));
    assert_eq!(again(&Either2::Right(Empty::new())), Some(0));
    let streams = crate::body::ReplayBody::streaming(full);
    let either: Either<_, Empty<Bytes>> = Either::Left(streams);
    assert_eq!(again(&either), None);
}
