//! Events for the observer of retries.

use std::sync::Arc;
use std::time::Duration;

/// A failed attempt, and the decision whether it is repeated. There is no event for an error that is
/// final by its meaning ([`Retryable::No`](crate::Retryable), and the second
/// [`Retryable::Once`](crate::Retryable)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryEvent {
    /// The reason: a [`Failure::kind`](crate::Failure::kind), for example `connect_failed`; a status,
    /// for example `status_503`; or `unclassified`.
    pub reason: &'static str,
    /// The number of the attempt that failed; the first is 1.
    pub attempt: u32,
    /// The decision.
    pub decision: Decision,
}

/// The decision about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// The request is sent again.
    Retry {
        /// The wait before it.
        after: Duration,
    },
    /// All attempts are used; the client gets the last response.
    AttemptsUsedUp,
    /// The retry budget is used up; the client gets the response.
    BudgetUsedUp,
    /// The error or the response's status is retried only at another backend, and there is none; the
    /// client gets it at once.
    NoOtherBackend,
    /// The request may not be sent twice; see
    /// [`RetryLayer::with_replayable`](super::RetryLayer::with_replayable).
    RequestNotReplayable,
    /// The body of the request cannot be sent twice, because it streams; see
    /// [`Replay`](crate::Replay).
    BodyNotReplayable,
    /// The error is no [`Failure`](crate::Failure) and of an unknown kind; see
    /// [`classify`](crate::classify).
    Unclassified,
    /// The backend's `Retry-After` is longer than the limit.
    TooLong,
}

impl RetryEvent {
    /// Whether the request is sent again.
    pub fn is_retry(&self) -> bool {
        matches!(self.decision, Decision::Retry { .. })
    }
}

pub(super) type RetryObserver = Arc<dyn Fn(&RetryEvent) + Send + Sync>;
