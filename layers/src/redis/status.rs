//! What observers and operators are told.

use std::time::Duration;

use jiff::Timestamp;

/// Whether Redis is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStatus {
    /// Whether calls are sent. If not, they fail at once.
    pub is_connected: bool,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not connected, or the error of the last call if Redis refused it, as it does without
    /// memory. The text is for operators.
    pub problem: Option<String>,
}

impl RedisStatus {
    /// The problem before the first attempt to connect has ended.
    pub const NOT_YET: &'static str = "not connected yet";
}

/// A call of Redis that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisCall {
    /// What was called, as `take` or `reserve`.
    pub operation: &'static str,
    /// How it ended.
    pub result: RedisCallResult,
    /// How long it took.
    pub duration: Duration,
}

impl RedisCall {
    /// A call, for tests of observers.
    pub fn new(operation: &'static str, result: RedisCallResult, duration: Duration) -> Self {
        Self {
            operation,
            result,
            duration,
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedisCallResult {
    /// With a response.
    Answered,
    /// With an error, from Redis or from the connection.
    Failed,
    /// Without a response within the deadline.
    Late,
    /// It was not sent, because Redis is not connected.
    NotSent,
}

impl RedisCallResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::Late, Self::NotSent];

    /// A fixed name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::NotSent => "not_sent",
        }
    }
}

/// Observes calls and the state of the connection. It must not block.
pub trait RedisObserver: Send + Sync {
    /// A call has ended.
    fn called(&self, call: &RedisCall) {
        let _ = call;
    }

    /// Redis was connected or lost, or the problem has changed. `before` is the state until now.
    fn changed(&self, before: &RedisStatus, now: &RedisStatus) {
        let _ = (before, now);
    }
}
