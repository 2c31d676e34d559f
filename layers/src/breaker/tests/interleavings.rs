//! Property tests of the breaker: random sequences and races.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use http_body::Body;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::time::Instant;
use tower::Service;

use super::*;
use crate::breaker::machine::{Machine, Permit, RequestResult};

/// An event at a breaker.
#[derive(Clone, Debug)]
enum Step {
    Acquire,
    AcquireAnyway,
    Settle { which: usize, result: u8 },
    Answered { which: usize },
    Wait(u64),
    HalfOpen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Acquire),
        1 => Just(Step::AcquireAnyway),
        3 => (0usize..8, 0u8..3).prop_map(|(which, result)| Step::Settle { which, result }),
        1 => (0usize..8).prop_map(|which| Step::Answered { which }),
        1 => (0u64..5000).prop_map(Step::Wait),
        1 => Just(Step::HalfOpen),
    ]
}

proptest! {
    /// While half-open, there are never more unanswered probes than allowed. When all tokens are
    /// returned, successes eventually close it.
    #[test]
    fn in_every_sequence_probes_are_bounded_and_it_can_close(
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
                Step::AcquireAnyway => held.push(machine.acquire_anyway(now)),
                Step::Settle { which, result } if which < held.len() => {
                    let results = [RequestResult::Success, RequestResult::Failure, RequestResult::Nothing];
                    let result = results[usize::from(result)];
                    machine.settle(&mut held.swap_remove(which), result, now);
                }
                Step::Answered { which } if which < held.len() => {
                    machine.answered(&mut held[which]);
                }
                Step::Settle { .. } | Step::Answered { .. } => {}
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::HalfOpen => machine.half_open(),
            }
            if machine.state() == State::HalfOpen {
                let waits = |permit: &&Permit| permit.has_place && machine.is_current(permit);
                prop_assert!(held.iter().filter(waits).count() <= probes as usize);
            }
        }
        for mut permit in held {
            machine.settle(&mut permit, RequestResult::Nothing, now);
        }
        now += Duration::from_secs(61);
        for _ in 0..probes {
            let permit = machine.acquire(now);
            let mut permit = permit.expect("its time is over and no probe is under way");
            machine.settle(&mut permit, RequestResult::Success, now);
        }
        prop_assert_eq!(machine.state(), State::Closed);
    }
}

/// What a request does when it is polled; at the end of the script, a body ends.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Pending,
    Go,
    Fail(Side),
    Panic,
}

/// A response that follows a script.
#[derive(Clone, Debug)]
struct Script(std::vec::IntoIter<Turn>);

impl Script {
    fn poll(&mut self) -> Poll<Option<Result<(), BoxError>>> {
        match self.0.next() {
            Some(Turn::Pending) => Poll::Pending,
            Some(Turn::Go) => Poll::Ready(Some(Ok(()))),
            Some(Turn::Fail(side)) => Poll::Ready(Some(Err(broke(side)))),
            // Unwinds without the panic hook's message.
            Some(Turn::Panic) => resume_unwind(Box::new("scripted")),
            None => Poll::Ready(None),
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = |()| Frame::data(Bytes::from("x"));
        self.poll().map(|turn| turn.map(|turn| turn.map(frame)))
    }
}

async fn play(request: Request<Script>) -> Result<Response<Script>, BoxError> {
    let mut script = request.into_body();
    std::future::poll_fn(|_| script.poll().map(Option::transpose)).await?;
    Ok(Response::new(script))
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<BreakerBody<Script>>, BoxError>>>>;

enum Flight {
    Head(Answer),
    Body(Pin<Box<BreakerBody<Script>>>),
}

impl Flight {
    /// The state after a poll. A panic drops the future, as a connection's task does.
    fn poll(self) -> Option<Self> {
        let cx = &mut Context::from_waker(Waker::noop());
        let next = catch_unwind(AssertUnwindSafe(|| match self {
            Self::Head(mut answer) => match answer.as_mut().poll(cx) {
                Poll::Pending => Some(Self::Head(answer)),
                Poll::Ready(Ok(head)) => Some(Self::Body(Box::pin(head.into_body()))),
                Poll::Ready(Err(_)) => None,
            },
            Self::Body(mut body) => match body.as_mut().poll_frame(cx) {
                Poll::Pending | Poll::Ready(Some(Ok(_))) => Some(Self::Body(body)),
                Poll::Ready(Some(Err(_)) | None) => None,
            },
        }));
        next.ok().flatten()
    }
}

fn script() -> impl Strategy<Value = Script> {
    let turn = prop_oneof![
        3 => Just(Turn::Pending),
        6 => Just(Turn::Go),
        1 => Just(Turn::Fail(Side::Upstream)),
        1 => Just(Turn::Fail(Side::Client)),
        1 => Just(Turn::Panic),
    ];
    prop::collection::vec(turn, 0..6).prop_map(|turns| Script(turns.into_iter()))
}

#[derive(Clone, Debug)]
enum Move {
    Start(Script),
    Poll(Index),
    Drop(Index),
    HalfOpen,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => script().prop_map(Move::Start),
        6 => any::<Index>().prop_map(Move::Poll),
        1 => any::<Index>().prop_map(Move::Drop),
        1 => Just(Move::HalfOpen),
    ];
    prop::collection::vec(one, 0..80)
}

fn probing(probes: u32) -> Breaker {
    let hour = 3600 * SECOND;
    let policy = one_failure().with_open_for(hour, hour);
    Breaker::new(policy.with_probes(NonZeroU32::new(probes).unwrap()))
}

/// All tokens were returned: every probe is possible, and they close the breaker.
fn is_whole(breaker: &Breaker, probes: u32) -> Result<(), TestCaseError> {
    breaker.half_open();
    if breaker.state() == State::HalfOpen {
        // Earlier probes may have succeeded, so fewer may be needed.
        let tokens: Vec<_> = (0..probes).map(|_| breaker.acquire()).collect();
        prop_assert!(tokens.iter().all(Result::is_ok));
        prop_assert!(breaker.acquire().is_err());
        tokens.into_iter().flatten().for_each(Token::succeed);
    }
    prop_assert_eq!(breaker.state(), State::Closed);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn tokens_return_however_requests_end(probes in 1u32..4, moves in moves()) {
        let breaker = probing(probes);
        let service = BreakerLayer::new(breaker.clone()).layer(service_fn(play));
        let mut flights: Vec<Flight> = Vec::new();
        for step in moves {
            match step {
                Move::Start(script) => {
                    let answer = service.clone().call(Request::new(script));
                    flights.push(Flight::Head(Box::pin(answer)));
                }
                Move::Poll(at) if !flights.is_empty() => {
                    let flight = flights.swap_remove(at.index(flights.len()));
                    flights.extend(flight.poll());
                }
                Move::Drop(at) if !flights.is_empty() => {
                    flights.swap_remove(at.index(flights.len()));
                }
                Move::Poll(_) | Move::Drop(_) => {}
                Move::HalfOpen => breaker.half_open(),
            }
        }
        flights.clear();
        is_whole(&breaker, probes)?;
    }
}

#[test]
fn racing_threads_never_get_more_probes_than_allowed() {
    const PROBES: u32 = 3;
    let breaker = probing(PROBES);
    breaker.acquire().unwrap().fail();
    breaker.half_open();
    let under_way = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let Ok(token) = breaker.acquire() else {
                        std::thread::yield_now();
                        continue;
                    };
                    let others = under_way.fetch_add(1, Ordering::SeqCst);
                    assert!(others < PROBES);
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    drop(token);
                }
            });
        }
    });
    is_whole(&breaker, PROBES).unwrap();
}
