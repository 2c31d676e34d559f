//! What the queue says about itself.

use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::Rules;
use super::class_queue::ClassQueue;
use crate::queue::Priority;

/// The position of a waiter in its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuePosition {
    /// The number of waiters that will be served before, if none enters and none leaves.
    pub ahead: usize,
    /// The remaining wait, from the recent service times; `None` if there is no service time yet.
    pub expected_wait: Option<Duration>,
}

/// A snapshot of one waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaiterSnapshot<C, K> {
    /// Its number, unique among all waiters of the queue.
    pub id: u64,
    /// Its class.
    pub class: C,
    /// Its key.
    pub key: K,
    /// Its priority.
    pub priority: Priority,
    /// The time since its arrival.
    pub waited: Duration,
    /// Where it stands in its class.
    pub position: QueuePosition,
}

/// A snapshot of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassSnapshot<C> {
    /// The class.
    pub class: C,
    /// The number of waiting requests.
    pub waiting: usize,
    /// The number of keys with waiting requests.
    pub keys_waiting: usize,
    /// The number of slots in use.
    pub in_flight: usize,
    /// The time since the arrival of the request that waits longest.
    pub oldest: Option<Duration>,
    /// The time that a slot is held: the mean of the last 16, without the longest one's excess.
    pub service_time: Option<Duration>,
    /// The expected wait of a new request behind all waiters; `None` if there is no service time
    /// yet.
    pub predicted_wait: Option<Duration>,
}

impl<C> ClassSnapshot<C> {
    pub(super) fn of<K, R>(
        class: C,
        class_queue: &ClassQueue<K, R>,
        rules: &Rules,
        now: Instant,
    ) -> Self
    where
        K: Clone + Eq + Hash,
    {
        let oldest = class_queue.oldest();
        Self {
            class,
            waiting: class_queue.waiting(),
            keys_waiting: class_queue.keys_waiting(),
            in_flight: class_queue.in_flight(),
            oldest: oldest.map(|arrival| now.saturating_duration_since(arrival)),
            service_time: class_queue.service_time(),
            predicted_wait: class_queue.expected_wait(class_queue.waiting(), rules.assumed_service),
        }
    }
}
