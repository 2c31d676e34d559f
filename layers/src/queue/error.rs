//! What a request is told that gets no slot.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Side};

/// Shows a time in whole seconds, rounded up, where it is known.
struct About(Option<Duration>);

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(wait) => write!(f, ", about {} s", seconds(wait)),
            None => Ok(()),
        }
    }
}

fn seconds(time: Duration) -> u128 {
    time.as_nanos().div_ceil(1_000_000_000)
}

/// Too much waits for this class. Nothing was sent anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the queue is full: {waiting} requests wait{}; try again in {} s",
    About(*.predicted_wait),
    seconds(*.retry_after)
)]
#[non_exhaustive]
pub struct QueueFull {
    /// How many requests of the class wait.
    pub waiting: usize,
    /// How long the request would have waited, if that can be said yet.
    pub predicted_wait: Option<Duration>,
    /// After how long there may be room.
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

/// The key has as much waiting as is its share; others may still enter. Nothing was sent
/// anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this client has too much waiting: {waiting} of its requests wait{}; try again in {} s",
    About(*.predicted_wait),
    seconds(*.retry_after)
)]
#[non_exhaustive]
pub struct KeyQueueFull {
    /// How many requests of the key wait for this class.
    pub waiting: usize,
    /// How long the request would have waited, if that can be said yet.
    pub predicted_wait: Option<Duration>,
    /// After how long there may be room.
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

/// The request waited for as long as it may, and no slot came free for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no slot came free within {} s; try again in {} s",
    seconds(*.waited),
    seconds(*.retry_after)
)]
#[non_exhaustive]
pub struct QueueTimeout {
    /// How long it waited.
    pub waited: Duration,
    /// After how long a slot may be expected.
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
