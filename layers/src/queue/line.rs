//! The line that a request stands in when it asks for a slot.

use tokio::time::Instant;

use super::Priority;

/// The line of a class at the time when a slot is asked for. See
/// [`Dispatch::try_take`](super::Dispatch::try_take).
///
/// A dispatcher that knows the line can weigh a slot that is free now against a better one that
/// becomes free soon: `waiting` is how many requests need a slot, `now - since` is how long this
/// one has waited already.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Line {
    /// The time of the call, the same for all calls of one round.
    pub now: Instant,
    /// The number of waiters of the class, this request included: 1 for a request that has just
    /// arrived.
    pub waiting: usize,
    /// The number of these waiters that have the key of this request, this request included.
    pub own: usize,
    /// The number of keys with waiters of the class, the key of this request included.
    pub keys: usize,
    /// When this request arrived; for a retried request, when its first attempt arrived
    /// ([`Entry::with_arrival`](super::Entry::with_arrival)).
    pub since: Instant,
    /// The priority of this request with its ageing: 0 is overdue, and a lower level is served first.
    pub level: usize,
    /// The counter of its key, in tokens for each unit of weight: of the same level, a lower counter is
    /// served first. For a request that has just arrived it is 0 unless the queue
    /// [exchanges service](super::Queue::with_exchange).
    pub counter: f64,
}

impl Line {
    /// The line of a request that arrives now, while no other request of its class waits.
    pub fn arriving(now: Instant) -> Self {
        Self {
            now,
            waiting: 1,
            own: 1,
            keys: 1,
            since: now,
            level: Priority::Normal as usize + 1,
            counter: 0.0,
        }
    }

    /// Whether the key of this request has at least as many waiters as the average key. What may
    /// delay a request, and helps all of them, is best done with such a key: it loses the least.
    pub fn has_average_backlog(&self) -> bool {
        self.own.saturating_mul(self.keys) >= self.waiting
    }
}
