//! Requests that can use only some of the slots of their class, and those that pass them.

use super::*;
use crate::queue::machine::{ClassQueues, Passing, Rules};
use tokio::time::Instant;

/// Two backends: the bad one has failed for some requests, and the good one for others.
#[derive(Clone, Default)]
struct Backends(Arc<Mutex<Free>>);

#[derive(Default)]
struct Free {
    good: usize,
    bad: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Backend {
    Good,
    Bad,
}

struct Held(Backends, Backend);

impl Drop for Held {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap().of(self.1) += 1;
    }
}

impl Free {
    fn of(&mut self, backend: Backend) -> &mut usize {
        match backend {
            Backend::Good => &mut self.good,
            Backend::Bad => &mut self.bad,
        }
    }
}

impl Backends {
    fn take(&self, among: &[Backend]) -> Option<Held> {
        let mut free = self.0.lock().unwrap();
        let backend = among.iter().find(|backend| *free.of(**backend) > 0)?;
        *free.of(*backend) -= 1;
        Some(Held(self.clone(), *backend))
    }
}

/// The backend at which the request has failed, which it cannot use again.
type Tried = Option<Backend>;

const FRESH: Tried = None;
const RETRIED: Tried = Some(Backend::Bad);

impl Dispatch for Backends {
    type Class = Name;
    type Key = Name;
    type Request = Tried;
    type Slot = Held;

    fn try_take(&self, _: &Name, tried: &Tried, _: Line) -> Result<Option<Held>, BoxError> {
        let mut usable = vec![Backend::Good, Backend::Bad];
        usable.retain(|backend| Some(*backend) != *tried);
        Ok(self.take(&usable))
    }

    fn may_be_passed(&self, tried: &Tried) -> bool {
        tried.is_some()
    }

    fn can_pass(&self, first: &Tried, request: &Tried) -> bool {
        first != request
    }

    fn try_take_past(
        &self,
        _: &Name,
        first: &Tried,
        request: &Tried,
        _: Line,
    ) -> Result<Option<Held>, BoxError> {
        assert_ne!(first, request);
        Ok(self.take(&Vec::from_iter(*first)))
    }
}

type Waiting = std::pin::Pin<Box<Ticket<Backends>>>;

struct Stage(Queue<Backends>);

impl Stage {
    /// Each backend has a slot. Both are taken.
    fn new() -> (Self, Permit<Backends>, Permit<Backends>) {
        let backends = Backends::default();
        *backends.0.lock().unwrap() = Free { good: 1, bad: 1 };
        let stage = Self(Queue::new(backends));
        let held = ["holder", "other"].map(|key| served(&mut stage.enter(key, FRESH)));
        let [good, bad] = held.map(Option::unwrap);
        (stage, good, bad)
    }

    fn enter(&self, key: Name, tried: Tried) -> Waiting {
        let entry = Entry::new(key, tried).with_cost(100);
        Box::pin(self.0.enter("m", entry).unwrap())
    }
}

fn served(ticket: &mut Waiting) -> Option<Permit<Backends>> {
    ticket.as_mut().now_or_never().map(Result::unwrap)
}

#[tokio::test]
async fn a_request_that_cannot_use_a_free_slot_does_not_block_those_behind_it() {
    let (stage, good, bad) = Stage::new();
    let mut retried = ["ada", "ada", "bob"].map(|key| stage.enter(key, RETRIED));
    let mut fresh = stage.enter("ada", FRESH);
    drop(bad);
    let passed = served(&mut fresh).expect("it uses the slot that is free");
    assert_eq!(passed.slot().1, Backend::Bad);
    assert!(retried.iter_mut().all(|waiting| served(waiting).is_none()));
    drop(good);
    let first = served(&mut retried[0]).expect("the first one gets the other slot");
    assert_eq!(first.slot().1, Backend::Good);
}

#[tokio::test]
async fn a_newcomer_gets_a_slot_that_those_who_wait_cannot_use() {
    let (stage, _good, bad) = Stage::new();
    let mut retried = stage.enter("ada", RETRIED);
    drop(bad);
    for key in ["ada", "bob"] {
        let permit = served(&mut stage.enter(key, FRESH));
        assert_eq!(permit.expect(key).slot().1, Backend::Bad);
    }
    assert!(served(&mut retried).is_none());
}

#[tokio::test]
async fn a_request_that_is_passed_is_not_overtaken_at_the_slots_that_it_can_use() {
    let (stage, good, bad) = Stage::new();
    let mut retried = stage.enter("ada", RETRIED);
    let mut of_ada = stage.enter("ada", FRESH);
    let mut of_bob = stage.enter("bob", FRESH);
    drop(bad);
    let _passed = served(&mut of_ada).expect("it passes");
    // Its key has got more than the other one by that.
    drop(good);
    let first = served(&mut retried).expect("it keeps its place");
    assert_eq!(first.slot().1, Backend::Good);
    assert!(served(&mut of_bob).is_none());
}

#[tokio::test]
async fn a_retried_request_gets_a_slot_that_the_first_one_cannot_use() {
    let (stage, good, bad) = Stage::new();
    let mut first = stage.enter("ada", RETRIED);
    let mut same = stage.enter("ada", RETRIED);
    let mut other = stage.enter("ada", Some(Backend::Good));
    let mut fresh = stage.enter("bob", FRESH);
    drop(bad);
    let passed = served(&mut other).expect("it has not failed there");
    assert_eq!(passed.slot().1, Backend::Bad);
    assert!(
        [&mut first, &mut same, &mut fresh]
            .map(served)
            .iter()
            .all(Option::is_none)
    );
    drop(good);
    let first = served(&mut first).expect("it keeps its place");
    assert_eq!(first.slot().1, Backend::Good);
}

#[tokio::test]
async fn a_retried_newcomer_gets_a_slot_that_those_who_wait_cannot_use() {
    let (stage, _good, bad) = Stage::new();
    let mut retried = stage.enter("ada", RETRIED);
    drop(bad);
    let permit = served(&mut stage.enter("bob", Some(Backend::Good)));
    assert_eq!(permit.expect("at once").slot().1, Backend::Bad);
    assert!(served(&mut stage.enter("bob", RETRIED)).is_none());
    assert!(served(&mut retried).is_none());
}

#[tokio::test]
async fn a_passing_request_without_a_slot_blocks_its_class_only_if_it_can_use_all_slots() {
    /// Three backends, by number. A request lists those that it has tried; `free` can be used.
    struct ByNumber;
    impl Passing<Vec<u8>> for ByNumber {
        fn may_be_passed(&self, tried: &Vec<u8>) -> bool {
            !tried.is_empty()
        }
        fn can_pass(&self, first: &Vec<u8>, tried: &Vec<u8>) -> bool {
            first.iter().any(|at| !tried.contains(at))
        }
    }
    let now = Instant::now();
    let mut queues = ClassQueues::new(Rules::default());
    for tried in [vec![0, 2], vec![1, 2], vec![]] {
        queues.push(now, &"m", Entry::new("ada", tried)).unwrap();
    }
    let (mut free, mut served, mut asked) = (Some(2), Vec::new(), 0);
    queues.hand_out_past(
        now,
        None,
        &ByNumber,
        |_, tried, first, _| {
            asked += 1;
            let usable = |at: &u8| {
                !tried.contains(at) && first.is_none_or(|first: &Vec<u8>| first.contains(at))
            };
            Ok(free.take_if(|at| usable(at)))
        },
        |delivery| served.push((delivery.waiter.request, delivery.answer.unwrap())),
    );
    assert_eq!(served, [(vec![], 2)], "the second one has tried it too");
    assert_eq!(asked, 3);
}
