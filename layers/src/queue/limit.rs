//! The limits by which requests are refused, and their names.

use std::time::Duration;

/// The limit by which a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueLimit {
    /// So many requests of a class may wait.
    Waiting(usize),
    /// So many requests of one key may wait in a class.
    WaitingPerKey(usize),
    /// The longest predicted wait.
    PredictedWait(Duration),
}

/// The names of the limits and of who is limited, for the texts of errors: for example, the settings
/// of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimitNames {
    /// The maximum number of waiting requests of one class.
    pub max_waiting: &'static str,
    /// The maximum number of waiting requests of one key in one class.
    pub max_waiting_per_key: &'static str,
    /// The maximum predicted wait.
    pub max_predicted_wait: &'static str,
    /// The maximum real wait.
    pub max_wait: &'static str,
    /// A key of one client, as this client is told of it.
    pub key: &'static str,
    /// A key that several clients share, as one of them is told of it.
    pub shared_key: &'static str,
}

impl QueueLimitNames {
    /// The names without [`Queue::with_limit_names`](super::Queue::with_limit_names).
    pub const DEFAULT: Self = Self {
        max_waiting: "the number of waiting requests",
        max_waiting_per_key: "the number of waiting requests of one client",
        max_predicted_wait: "the predicted wait",
        max_wait: "the time in the queue",
        key: "this client",
        shared_key: "this group of clients",
    };

    pub(super) fn of(&self, limit: QueueLimit) -> &'static str {
        match limit {
            QueueLimit::Waiting(_) => self.max_waiting,
            QueueLimit::WaitingPerKey(_) => self.max_waiting_per_key,
            QueueLimit::PredictedWait(_) => self.max_predicted_wait,
        }
    }
}
