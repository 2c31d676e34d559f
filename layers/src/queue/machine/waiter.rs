//! What goes into the queues and comes out of them: charges, positions, waiters, deliveries.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use crate::BoxError;
use crate::queue::Priority;

/// The expected cost of a request and the weight of its key, which the key's counter is charged
/// with while the request holds a slot. See [`Entry::charge`](crate::queue::Entry::charge).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    pub(in crate::queue) tokens: u32,
    pub(in crate::queue) weight: NonZeroU32,
}

impl Charge {
    /// The expected cost, in tokens for each unit of weight.
    pub(super) fn units(self) -> f64 {
        self.units_of(self.tokens)
    }

    /// A cost of `tokens`, for each unit of weight.
    pub(super) fn units_of(self, tokens: u32) -> f64 {
        f64::from(tokens) / f64::from(self.weight.get())
    }
}

/// The position of a waiter: its key, and the values that order it.
#[derive(Clone, Debug)]
pub struct Position<K> {
    pub(in crate::queue) key: K,
    pub(in crate::queue) priority: Priority,
    pub(in crate::queue) arrival: Instant,
    pub(in crate::queue) id: u64,
}

impl<K> Position<K> {
    /// The key of the waiter.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The number of the waiter, the same as [`Waiter::id`].
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// A waiting request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Waiter<R> {
    /// Its number, unique among all waiters of one [`ClassQueues`](super::ClassQueues).
    pub id: u64,
    /// What its key is charged with.
    pub charge: Charge,
    /// The request that its [`Entry`](crate::queue::Entry) was made with.
    pub request: R,
}

/// A waiter that leaves the queue because it gets a slot, or an error instead of one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery<'a, C, R, S> {
    /// The class of the waiter.
    pub class: &'a C,
    /// The waiter.
    pub waiter: Waiter<R>,
    /// The number of waiters that the class has left.
    pub waiting: usize,
    /// The slot, or the reason why there will never be one.
    pub answer: Result<S, BoxError>,
}

/// How a request that held a slot ended. See [`ClassQueues::finish`](super::ClassQueues::finish).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finished {
    /// The time that the slot was held; `None` does not count for the service time.
    pub held: Option<Duration>,
    /// The real cost, in the unit of [`Entry::with_cost`](crate::queue::Entry::with_cost); `None`
    /// means that the estimate counts.
    pub cost: Option<u32>,
}

impl Finished {
    /// A slot that was used and released after `held`.
    pub fn after(held: Duration) -> Self {
        Self {
            held: Some(held),
            cost: None,
        }
    }

    /// A slot that was not used: it cost nothing and does not count for the service time.
    pub fn unused() -> Self {
        Self {
            held: None,
            cost: Some(0),
        }
    }

    /// The real cost.
    pub fn with_cost(mut self, tokens: u32) -> Self {
        self.cost = Some(tokens);
        self
    }
}
