//! Property test: the memory of a body is always released.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use proptest::prelude::*;
use proptest::sample::Index;
use tower::{Layer, Service, service_fn};

use super::{BodyLimitLayer, BodyRule};
use crate::body::{MemoryBudget, ReplayBody};
use crate::{BoxError, Replay};

const BUDGET: u64 = 200_000;
const LIMIT: u64 = 150_000;

#[derive(Clone, Debug)]
enum Step {
    Piece(usize),
    Pending,
    Fail,
    Panic,
}

/// The client's body, and the length that it declares.
#[derive(Clone, Debug)]
struct Scripted {
    steps: std::vec::IntoIter<Step>,
    announced: Option<u64>,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.steps.next() {
            None => Poll::Ready(None),
            Some(Step::Piece(len)) => Poll::Ready(Some(Ok(Frame::data(vec![b'x'; len].into())))),
            Some(Step::Pending) => Poll::Pending,
            Some(Step::Fail) => Poll::Ready(Some(Err("reset by peer".into()))),
            Some(Step::Panic) => resume_unwind(Box::new("the body panicked")),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.announced
            .map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

fn scripted() -> impl Strategy<Value = Scripted> {
    let step = prop_oneof![
        6 => prop_oneof![0usize..3000, 0usize..100_000].prop_map(Step::Piece),
        3 => Just(Step::Pending),
        1 => Just(Step::Fail),
        1 => Just(Step::Panic),
    ];
    let steps = prop::collection::vec(step, 0..8);
    (steps, prop::option::of(0..BUDGET)).prop_map(|(steps, announced)| Scripted {
        steps: steps.into_iter(),
        announced,
    })
}

#[derive(Clone, Debug)]
enum Action {
    Send(Scripted),
    Poll(Index),
    Leave(Index),
    /// For a buffered body: a replay, or a splice.
    Copy(Index),
    Splice(Index),
    Drop(Index),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let index = any::<Index>;
    let one = prop_oneof![
        3 => scripted().prop_map(Action::Send),
        6 => index().prop_map(Action::Poll),
        1 => index().prop_map(Action::Leave),
        1 => index().prop_map(Action::Copy),
        1 => index().prop_map(Action::Splice),
        2 => index().prop_map(Action::Drop),
    ];
    prop::collection::vec(one, 0..60)
}

type Read = ReplayBody<Scripted>;
type Reading = Pin<Box<dyn Future<Output = Result<Read, BoxError>>>>;

proptest! {
    #[test]
    fn memory_is_released_whatever_happens_to_bodies(actions in actions()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _in_runtime = runtime.enter();
        let memory = MemoryBudget::new(BUDGET);
        let layer = BodyLimitLayer::new(memory.clone()).with_rule(|_| BodyRule::Buffer { limit: LIMIT });
        let service = layer.layer(service_fn(async |request: Request<Read>| {
            Ok::<_, Infallible>(request.into_body())
        }));
        let mut reading: Vec<Reading> = Vec::new();
        let mut read: Vec<Read> = Vec::new();
        let cx = &mut Context::from_waker(Waker::noop());
        for step in actions {
            match step {
                Action::Send(body) => reading.push(Box::pin(service.clone().call(Request::new(body)))),
                Action::Poll(at) if !reading.is_empty() => {
                    let mut one = reading.swap_remove(at.index(reading.len()));
                    match catch_unwind(AssertUnwindSafe(|| one.as_mut().poll(cx))) {
                        Ok(Poll::Pending) => reading.push(one),
                        Ok(Poll::Ready(Ok(body))) => read.push(body),
                        Ok(Poll::Ready(Err(_))) | Err(_) => {}
                    }
                }
                Action::Leave(at) if !reading.is_empty() => {
                    drop(reading.swap_remove(at.index(reading.len())));
                }
                Action::Copy(at) if !read.is_empty() => {
                    let copy = read[at.index(read.len())].replay().unwrap();
                    read.push(copy);
                }
                Action::Splice(at) if !read.is_empty() => {
                    let spliced = read[at.index(read.len())].splice(0..0, "y".into()).unwrap();
                    read.push(spliced);
                }
                Action::Drop(at) if !read.is_empty() => {
                    drop(read.swap_remove(at.index(read.len())));
                }
                _ => {}
            }
            prop_assert!(memory.available() <= BUDGET);
            if reading.is_empty() && read.is_empty() {
                prop_assert_eq!(memory.available(), BUDGET);
            }
        }
        reading.clear();
        // A buffered body holds its own length, once for all of its replays.
        prop_assert!(BUDGET - memory.available() <= read.iter().filter_map(ReplayBody::len).sum());
        read.clear();
        prop_assert_eq!(memory.available(), BUDGET);
    }
}
