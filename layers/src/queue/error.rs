//! The errors of a request that gets no slot.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Side};

/// Formats a known time in whole seconds, rounded up; formats nothing if it is unknown.
struct PredictedWait(Option<Duration>);

impl fmt::Display for PredictedWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(wait) => write!(f, " (expected wait: {} s)", seconds(wait)),
            None => Ok(()),
        }
    }
}

fn seconds(time: Duration) -> u128 {
    time.as_nanos().div_ceil(1_000_000_000)
}

fn group(is_for_group: bool) -> &'static str {
    match is_for_group {
        true => " for this group of clients",
        false => "",
    }
}

fn requests_are(count: usize) -> &'static str {
    match count {
        1 => "request is",
        _ => "requests are",
    }
}

/// The class has too many waiting requests, or a key that several clients share has. The request
/// was not sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the queue is full{}: {waiting} {} waiting{}; try again in {} s",
    group(*.is_for_group),
    requests_are(*.waiting),
    PredictedWait(*.predicted_wait),
    seconds(*.retry_after)
)]
#[non_exhaustive]
pub struct QueueFull {
    /// The number of waiting requests of the class, or of the shared key.
    pub waiting: usize,
    /// Whether only the clients that share a key
    /// ([`Entry::with_shared_key`](super::Entry::with_shared_key)) are refused; other keys may
    /// still enter.
    pub is_for_group: bool,
    /// The predicted wait of the refused request, if it is known.
    pub predicted_wait: Option<Duration>,
    /// The time after which there may be room.
    pub retry_after: Duration,
}

impl Fail for QueueFull {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "queue_full"
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
    }
}

/// The key has too many waiting requests; other keys may still enter. The request was not sent to a
/// backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this client has too many waiting requests: {waiting}{}; try again in {} s",
    PredictedWait(*.predicted_wait),
    seconds(*.retry_after)
)]
#[non_exhaustive]
pub struct KeyQueueFull {
    /// The number of the key's requests that wait for this class.
    pub waiting: usize,
    /// The predicted wait of the refused request, if it is known.
    pub predicted_wait: Option<Duration>,
    /// The time after which there may be room.
    pub retry_after: Duration,
}

impl Fail for KeyQueueFull {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::TOO_MANY_REQUESTS
    }
    fn kind(&self) -> &'static str {
        "key_queue_full"
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
    }
}

/// The request waited for its full limit and no slot became free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no slot became free within {} s; try again in {} s",
    seconds(*.waited),
    seconds(*.retry_after)
)]
#[non_exhaustive]
pub struct QueueTimeout {
    /// The time that the request waited.
    pub waited: Duration,
    /// The time after which a slot may be free.
    pub retry_after: Duration,
}

impl Fail for QueueTimeout {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "queue_timeout"
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
    }
}
