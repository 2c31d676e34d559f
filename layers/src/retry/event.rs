//! What is told of retries.

use std::sync::Arc;
use std::time::Duration;

/// An attempt has failed in a way that a retry may mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryEvent {
    /// Why: a [`Failure::kind`](crate::Failure::kind), or `status_503` and the like.
    pub reason: &'static str,
    /// The number of the attempt that failed; the first is 1.
    pub attempt: u32,
    /// What is done about it.
    pub decision: Decision,
}

/// What is done about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// The request is sent again.
    Retry {
        /// After so long.
        after: Duration,
    },
    /// Its attempts are used up; the client gets the last answer.
    AttemptsSpent,
    /// The budget of all requests is used up; the client gets the answer.
    BudgetSpent,
    /// The answer is one that only another backend is asked for again, and there is none; the client
    /// gets it.
    NobodyElse,
    /// The backend asks for more time than the request can be held.
    TooLong,
}

impl RetryEvent {
    /// Whether the request is sent again.
    pub fn is_retry(&self) -> bool {
        matches!(self.decision, Decision::Retry { .. })
    }
}

pub(super) type RetryObserver = Arc<dyn Fn(&RetryEvent) + Send + Sync>;
