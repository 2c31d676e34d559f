//! Waiters that can use only some of the slots of their class, and those that are served before them.

use std::hash::Hash;

use super::Position;
use super::class_queue::{Ageing, ClassQueue, Head};

/// So many waiters of one key with one priority are passed at most, and so many of one class are
/// offered a slot in a round without success, because the search is in the critical section.
pub(super) const MOST_PASSED: usize = 64;

/// Which waiters can use only some of the slots of their class, for example because they have failed
/// at a backend, and which other ones may be served before them.
pub trait Passing<R> {
    /// Whether a request can use only some of the slots of its class. If it is the first one of its
    /// class and there is no slot for it, it is passed.
    fn may_be_passed(&self, request: &R) -> bool;

    /// Whether a request can use slots that `first`, which is passed, cannot use.
    fn can_pass(&self, first: &R, request: &R) -> bool;
}

/// No waiter is passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct NonePasses;

impl<R> Passing<R> for NonePasses {
    fn may_be_passed(&self, _: &R) -> bool {
        false
    }

    fn can_pass(&self, _: &R, _: &R) -> bool {
        false
    }
}

/// The first waiter of a class that is passed in a round, because there was no slot for it.
#[derive(Debug)]
pub(super) struct PassedInRound<K> {
    round: u64,
    first: Position<K>,
    /// The numbers of the waiters behind it for which there was no slot either, but which do not block
    /// the others: they too can use only some of the slots.
    without_slot: Vec<u64>,
}

impl<K: Clone + Eq + Hash> PassedInRound<K> {
    pub(super) fn new(round: u64, first: Position<K>) -> Self {
        Self {
            round,
            first,
            without_slot: Vec::new(),
        }
    }

    pub(super) fn is_in(&self, round: u64) -> bool {
        self.round == round
    }

    /// The request that is passed.
    pub(super) fn request<'a, R>(&self, class_queue: &'a ClassQueue<K, R>) -> Option<&'a R> {
        class_queue.request(&self.first)
    }

    /// The next waiter that can pass the first one.
    pub(super) fn head<R>(
        &self,
        class_queue: &ClassQueue<K, R>,
        ageing: Ageing,
        passing: &impl Passing<R>,
    ) -> Option<Head> {
        let first = self.request(class_queue)?;
        class_queue.head_past(ageing, |id, request| {
            id != self.first.id
                && !self.without_slot.contains(&id)
                && passing.can_pass(first, request)
        })
    }

    /// Notes that there was no slot for a waiter behind the first one. Returns whether those behind it
    /// are still offered one.
    pub(super) fn pass_too(&mut self, id: u64) -> bool {
        let is_allowed = self.without_slot.len() < MOST_PASSED;
        if is_allowed {
            self.without_slot.push(id);
        }
        is_allowed
    }
}
