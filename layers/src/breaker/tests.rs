#![allow(clippy::unwrap_used)]

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt, service_fn};

use super::machine::{Machine, Verdict};
use super::*;
use crate::{BoxError, Fail, Failure, Side};

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

/// What a backend does in a test.
#[derive(Clone, Copy, Debug)]
enum Backend {
    Fails(Side),
    Answers(u16),
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
        Backend::BreaksOff => {
            frames.push(Err(broke(Side::Upstream)));
            200
        }
    };
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Ok(Response::builder().status(status).body(body)?)
}

async fn send(
    breaker: &Breaker,
    backend: Backend,
) -> Result<Response<BreakerBody<Frames>>, BoxError> {
    let layer = BreakerLayer::new(breaker.clone());
    let service = layer.layer(service_fn(move |_: Request<()>| answer(backend)));
    service.oneshot(Request::default()).await
}

/// Sends a request and reads its answer as far as there is one.
async fn ask(breaker: &Breaker, backend: Backend) {
    if let Ok(answer) = send(breaker, backend).await {
        let _ = answer.into_body().collect().await;
    }
}

fn one_failure() -> BreakerPolicy {
    BreakerPolicy::default().with_consecutive_failures(Some(NonZeroU32::MIN))
}

#[tokio::test]
async fn failures_are_what_the_backend_did_and_nobody_else() {
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
    ] {
        let breaker = Breaker::new(one_failure());
        ask(&breaker, backend).await;
        assert_eq!(breaker.state(), expected, "{backend:?}");
    }
}

#[tokio::test]
async fn a_stream_is_judged_at_its_end_and_not_at_its_head() {
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
async fn an_open_breaker_refuses_until_its_time_is_over_and_a_probe_closes_it() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
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
        *told.lock().unwrap(),
        [(Closed, Open), (Open, HalfOpen), (HalfOpen, Closed)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_opens_for_twice_as_long_and_success_forgets_that() {
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
async fn a_probe_whose_client_leaves_makes_room_for_the_next() {
    let breaker = Breaker::new(one_failure());
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    advance(2 * SECOND).await;
    let probe = send(&breaker, Backend::Answers(200)).await.unwrap();
    assert!(
        send(&breaker, Backend::Answers(200)).await.is_err(),
        "one at a time"
    );
    drop(probe);
    assert_eq!(breaker.state(), State::HalfOpen);
    assert!(breaker.would_allow());
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
async fn a_share_of_failures_opens_once_there_were_enough_requests() {
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
    assert_eq!(breaker.state(), State::Closed, "the 9 are forgotten");
    for _ in 0..9 {
        ask(&breaker, Backend::Fails(Side::Upstream)).await;
    }
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test]
async fn what_is_known_otherwise_lets_probes_through_early() {
    let breaker = Breaker::new(one_failure());
    breaker.half_open();
    assert_eq!(breaker.state(), State::Closed);
    ask(&breaker, Backend::Fails(Side::Upstream)).await;
    breaker.half_open();
    assert!(breaker.would_allow());
}

/// What happens to a breaker.
#[derive(Clone, Debug)]
enum Step {
    Acquire,
    Settle { which: usize, verdict: u8 },
    Wait(u64),
    HalfOpen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Acquire),
        3 => (0usize..8, 0u8..3).prop_map(|(which, verdict)| Step::Settle { which, verdict }),
        1 => (0u64..5000).prop_map(Step::Wait),
        1 => Just(Step::HalfOpen),
    ]
}

proptest! {
    /// Half-open, there are never more probes than allowed, and all tokens given back, a success
    /// closes it in time.
    #[test]
    fn whatever_happens_probes_are_bounded_and_it_can_close(
        probes in 1u32..4,
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let policy = BreakerPolicy::default()
            .with_consecutive_failures(NonZeroU32::new(2))
            .with_probes(NonZeroU32::new(probes).unwrap());
        let mut now = Instant::now();
        let mut machine = Machine::new(policy, now);
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Acquire => held.extend(machine.acquire(now)),
                Step::Settle { which, verdict } if which < held.len() => {
                    let verdicts = [Verdict::Success, Verdict::Failure, Verdict::Nothing];
                    let verdict = verdicts[usize::from(verdict)];
                    machine.settle(held.swap_remove(which), verdict, now);
                }
                Step::Settle { .. } => {}
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::HalfOpen => machine.half_open(),
            }
            if machine.state() == State::HalfOpen {
                let probing = held.iter().filter(|phase| **phase == machine.phase()).count();
                prop_assert!(probing <= probes as usize);
            }
        }
        for phase in held {
            machine.settle(phase, Verdict::Nothing, now);
        }
        now += Duration::from_secs(61);
        for _ in 0..probes {
            let phase = machine.acquire(now).expect("its time is over and no probe is under way");
            machine.settle(phase, Verdict::Success, now);
        }
        prop_assert_eq!(machine.state(), State::Closed);
    }
}
