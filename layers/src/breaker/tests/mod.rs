#![allow(clippy::unwrap_used)]

mod interleavings;

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};
use tower_test::mock::{self, Handle, Mock, Spawn};

use super::*;
use crate::{BoxError, ErrorCause, Fail, Failure, Side};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Broke(Side);
impl std::fmt::Display for Broke {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broke")
    }
}
impl std::error::Error for Broke {}
impl Fail for Broke {
    fn side(&self) -> Side {
        self.0
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "broke"
    }
}

fn broke(side: Side) -> BoxError {
    Failure::from(Broke(side)).into()
}

/// The behaviour of a backend in a test.
#[derive(Clone, Copy, Debug)]
enum Backend {
    Fails(Side),
    Answers(u16),
    Blames(ErrorCause),
    BreaksOff,
}

type Frames =
    StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, BoxError>>>>;

async fn answer(backend: Backend) -> Result<Response<Frames>, BoxError> {
    let mut frames = vec![
        Ok(Frame::data(Bytes::from("{}\n"))),
        Ok(Frame::data(Bytes::from("{}\n"))),
    ];
    let status = match backend {
        Backend::Fails(side) => return Err(broke(side)),
        Backend::Answers(status) => status,
        Backend::Blames(_) => 502,
        Backend::BreaksOff => {
            frames.push(Err(broke(Side::Upstream)));
            200
        }
    };
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut answer = Response::builder().status(status).body(body)?;
    if let Backend::Blames(cause) = backend {
        answer.extensions_mut().insert(cause);
    }
    Ok(answer)
}

async fn send(
    breaker: &Breaker,
    backend: Backend,
) -> Result<Response<BreakerBody<Frames>>, BoxError> {
    let layer = BreakerLayer::new(breaker.clone());
    let service = layer.layer(service_fn(move |_: Request<()>| answer(backend)));
    service.oneshot(Request::default()).await
}

/// Sends a request and reads its response to the end.
async fn ask(breaker: &Breaker, backend: Backend) {
    if let Ok(answer) = send(breaker, backend).await {
        let _ = answer.into_body().collect().await;
    }
}

type Mocked = Spawn<BreakerService<Mock<Request<()>, Response<Frames>>>>;

/// A service before a backend whose results the test determines.
fn mock(breaker: &Breaker) -> (Mocked, Handle<Request<()>, Response<Frames>>) {
    mock::spawn_with(|mock| BreakerLayer::new(breaker.clone()).layer(mock))
}

fn one_failure() -> BreakerPolicy {
    BreakerPolicy::default().with_consecutive_failures(Some(NonZeroU32::MIN))
}

#[tokio::test]
async fn only_the_backends_errors_are_failures() {
    for (backend, expected) in [
        (Backend::Fails(Side::Upstream), State::Open),
        (Backend::BreaksOff, State::Open),
        (Backend::Answers(502), State::Open),
        (Backend::Answers(504), State::Open),
        (Backend::Fails(Side::Client), State::Closed),
        (Backend::Fails(Side::Gateway), State::Closed),
        (Backend::Answers(200), State::Closed),
        (Backend::Answers(404), State::Closed),
        (Backend::Answers(500), State::Closed),
        (Backend::Answers(503), State::Closed),
        (Backend::Blames(ErrorCause::Request), State::Closed),
    ] {
        let breaker = Breaker::new(one_failure());
        ask(&breaker, backend).await;
        assert_eq!(breaker.state(), expected, "{backend:?}");
    }
}

#[tokio::test]
async fn a_stream_counts_at_its_end_and_not_at_its_head() {
    let breaker = Breaker::new(one_failure());
    let answer = send(&breaker, Backend::BreaksOff).await.unwrap();
    let mut body = answer.into_body();
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
        assert_eq!(breaker.state(), State::Closed);
    }
    body.frame().await.unwrap().unwrap_err();
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_rejects_until_its_time_is_over_and_a_probe_closes_it() {
    let reported = Arc::new(Mutex::new(Vec::new()));
    let seen = reported.clone();
    let breaker = Breaker::new(one_failure())
        .with_hook(move |from, to| seen.lock().unwrap().push((from, to)));
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    advance(SECOND).await;
    let error = send(&breaker, Backend::Answers(200)).await.unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(
        (failure.kind(), failure.retry_after()),
        ("circuit_open", Some(SECOND))
    );
    advance(SECOND).await;
    ask(&breaker, Backend::Answers(200)).await;
    assert_eq!(breaker.state(), State::Closed);
    use State::{Closed, HalfOpen, Open};
    assert_eq!(
        *reported.lock().unwrap(),
        [(Closed, Open), (Open, HalfOpen), (HalfOpen, Closed)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_doubles_the_time_and_a_success_resets_it() {
    let breaker = Breaker::new(one_failure().with_open_for(SECOND, 3 * SECOND));
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    for seconds in [1, 2, 3, 3] {
        assert_eq!(breaker.retry_after(), Some(seconds * SECOND));
        advance(seconds * SECOND).await;
        ask(&breaker, Backend::Fails(Side::Upstream)).await;
    }
    advance(3 * SECOND).await;
    ask(&breaker, Backend::Answers(200)).await;
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    assert_eq!(breaker.retry_after(), Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_frees_its_place() {
    let breaker = Breaker::new(one_failure());
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    advance(2 * SECOND).await;
    let (mut service, mut backend) = mock(&breaker);
    assert!(service.poll_ready().is_ready());
    let probe = service.call(Request::default());
    assert!(service.poll_ready().is_ready());
    let refused = service.call(Request::default()).now_or_never();
    let refusal = refused.expect("one at a time").unwrap_err();
    let failure = Failure::find(&*refusal).unwrap();
    assert!(failure.caused_by::<CircuitOpen>().is_some());
    backend.next_request().await.unwrap();
    let second = pin!(backend.next_request()).now_or_never();
    assert!(second.is_none(), "a rejected request is not sent");
    drop(probe);
    assert_eq!(breaker.state(), State::HalfOpen);
    assert!(breaker.would_allow());
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    let breaker = Breaker::new(BreakerPolicy::default());
    let (mut service, mut backend) = mock(&breaker);
    backend.allow(0);
    assert!(service.poll_ready().is_pending());
    backend.allow(1);
    assert!(service.poll_ready().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_probe_frees_its_place_with_the_head_of_its_response() {
    let breaker = Breaker::new(one_failure());
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    advance(2 * SECOND).await;
    let long = send(&breaker, Backend::Answers(200)).await.unwrap();
    assert!(breaker.would_allow(), "the backend answers");
    assert_eq!(breaker.state(), State::HalfOpen, "no result before its end");
    let breaks_off = send(&breaker, Backend::BreaksOff).await.unwrap();
    breaks_off.into_body().collect().await.unwrap_err();
    assert_eq!(breaker.state(), State::Open);
    long.into_body().collect().await.unwrap();
    assert_eq!(
        breaker.state(),
        State::Open,
        "it belongs to an earlier phase"
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_with_a_length_counts_at_its_last_byte() {
    let breaker = Breaker::new(one_failure());
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    advance(2 * SECOND).await;
    let layer = BreakerLayer::new(breaker.clone());
    let service = layer.layer(service_fn(async |_: Request<()>| {
        let mut answer = answer(Backend::Answers(200)).await?;
        answer.headers_mut().insert("content-length", 6.into());
        Ok::<_, BoxError>(answer)
    }));
    let mut body = service
        .oneshot(Request::default())
        .await
        .unwrap()
        .into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(breaker.state(), State::HalfOpen);
    body.frame().await.unwrap().unwrap();
    drop(body); // as hyper does, which has written all that was promised
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_open_time_beyond_the_clock_does_not_panic() {
    let policy = one_failure().with_open_for(Duration::MAX, Duration::MAX);
    let breaker = Breaker::new(policy);
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    advance(3600 * SECOND).await;
    assert!(!breaker.would_allow());
}

#[tokio::test]
async fn a_token_that_travels_with_the_request_is_the_one_that_is_settled() {
    let breaker = Breaker::new(one_failure());
    let token = breaker.acquire().unwrap();
    let mut request = Request::new(());
    Breaker::put_token(request.extensions_mut(), token);
    let copy = request.clone();
    drop(request);
    let other = Breaker::new(one_failure());
    let service = BreakerLayer::new(other.clone()).layer(service_fn(|_: Request<()>| {
        answer(Backend::Fails(Side::Upstream))
    }));
    service.oneshot(copy).await.unwrap_err();
    assert_eq!(
        (breaker.state(), other.state()),
        (State::Open, State::Closed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_opens_it_after_enough_requests() {
    let policy = BreakerPolicy::default()
        .with_consecutive_failures(None)
        .with_failure_ratio(0.5, NonZeroU32::new(10).unwrap());
    let breaker = Breaker::new(policy);
    for number in 0..9 {
        let backend = match number % 2 {
            0 => Backend::Fails(Side::Upstream),
            _ => Backend::Answers(200),
        };
        ask(&breaker, backend).await;
    }
    assert_eq!(breaker.state(), State::Closed, "9 are too few");
    advance(31 * SECOND).await;
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    assert_eq!(breaker.state(), State::Closed, "the 9 have left the window");
    for _ in 0..9 {
        ask(&breaker, Backend::Fails(Side::Upstream)).await;
    }
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test]
async fn external_knowledge_allows_probes_early() {
    let breaker = Breaker::new(one_failure());
    breaker.half_open();
    assert_eq!(breaker.state(), State::Closed);
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    breaker.half_open();
    assert!(breaker.would_allow());
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_refusals_allows_and_counts_in_every_state() {
    let breaker = Breaker::new(one_failure());
    let send = async |backend| {
        let layer = BreakerLayer::new(breaker.clone()).without_refusals();
        let service = layer.layer(service_fn(move |_: Request<()>| answer(backend)));
        let answer = service.oneshot(Request::default()).await;
        match answer {
            Ok(answer) => answer.into_body().collect().await.is_ok(),
            Err(error) => {
                let failure = Failure::find(&*error).unwrap();
                assert!(failure.caused_by::<CircuitOpen>().is_none());
                false
            }
        }
    };
    assert!(!send(Backend::BreaksOff).await);
    assert_eq!(breaker.state(), State::Open);
    assert!(!send(Backend::Fails(Side::Upstream)).await);
    assert_eq!(breaker.state(), State::Open);
    assert!(send(Backend::Answers(200)).await);
    assert_eq!(breaker.state(), State::HalfOpen);
    assert!(send(Backend::Answers(200)).await);
    assert_eq!(breaker.state(), State::Closed);
}
