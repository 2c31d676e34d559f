//! Requests that can use only some of the slots of their class, and those that pass them.

use super::*;

/// One backend that every request can use, and one that has failed for some.
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

/// Whether the request has failed at the bad backend.
#[derive(Clone, Copy, PartialEq)]
enum Tried {
    Bad,
    None,
}

impl Dispatch for Backends {
    type Class = Name;
    type Key = Name;
    type Request = Tried;
    type Slot = Held;

    fn try_take(&self, _: &Name, tried: &Tried, _: Line) -> Result<Option<Held>, BoxError> {
        Ok(match tried {
            Tried::Bad => self.take(&[Backend::Good]),
            Tried::None => self.take(&[Backend::Good, Backend::Bad]),
        })
    }

    fn may_be_passed(&self, tried: &Tried) -> bool {
        *tried == Tried::Bad
    }

    fn try_take_past(
        &self,
        _: &Name,
        first: &Tried,
        request: &Tried,
        _: Line,
    ) -> Result<Option<Held>, BoxError> {
        assert!(*first == Tried::Bad && *request == Tried::None);
        Ok(self.take(&[Backend::Bad]))
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
        let held = ["holder", "other"].map(|key| served(&mut stage.enter(key, Tried::None)));
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
    let mut retried = ["ada", "ada", "bob"].map(|key| stage.enter(key, Tried::Bad));
    let mut fresh = stage.enter("ada", Tried::None);
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
    let mut retried = stage.enter("ada", Tried::Bad);
    drop(bad);
    for key in ["ada", "bob"] {
        let permit = served(&mut stage.enter(key, Tried::None));
        assert_eq!(permit.expect(key).slot().1, Backend::Bad);
    }
    assert!(served(&mut retried).is_none());
}

#[tokio::test]
async fn a_request_that_is_passed_is_not_overtaken_at_the_slots_that_it_can_use() {
    let (stage, good, bad) = Stage::new();
    let mut retried = stage.enter("ada", Tried::Bad);
    let mut of_ada = stage.enter("ada", Tried::None);
    let mut of_bob = stage.enter("bob", Tried::None);
    drop(bad);
    let _passed = served(&mut of_ada).expect("it passes");
    // Its key has got more than the other one by that.
    drop(good);
    let first = served(&mut retried).expect("it keeps its place");
    assert_eq!(first.slot().1, Backend::Good);
    assert!(served(&mut of_bob).is_none());
}
