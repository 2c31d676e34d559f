//! The errors of a request that gets no slot.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::QueueLimit;
use crate::{Fail, Side};

fn seconds(time: Duration) -> u128 {
    time.as_nanos().div_ceil(1_000_000_000)
}

/// Formats the name of a limit that was reached; formats nothing if there is none.
struct Limit(Option<&'static str>);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, " (limit: {name})"),
            None => Ok(()),
        }
    }
}

/// Formats why a request may not wait.
struct Refused {
    /// Who is limited, if not all.
    whose: Option<&'static str>,
    limit: QueueLimit,
    limit_name: &'static str,
    waiting: usize,
    predicted_wait: Option<Duration>,
    retry_after: Duration,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |f: &mut fmt::Formatter<'_>| match self.whose {
            Some(whose) => write!(f, " for {whose}"),
            None => Ok(()),
        };
        let waiting = self.waiting;
        let of_them = match self.whose {
            Some(_) => " of its",
            None => "",
        };
        let requests = match (waiting, self.whose) {
            (1, None) => "request is",
            (1, Some(_)) => "requests is",
            _ => "requests are",
        };
        let limit = Limit(Some(self.limit_name));
        match (self.limit, self.predicted_wait) {
            (QueueLimit::PredictedWait(max), Some(wait)) => {
                f.write_str("the expected wait in the queue is too long")?;
                whose(f)?;
                let (wait, max) = (seconds(wait), seconds(max));
                write!(f, ": {wait} s, above {max} s{limit}; ")?;
                write!(f, "{waiting}{of_them} {requests} waiting")?;
            }
            (_, wait) => {
                f.write_str("the queue is full")?;
                whose(f)?;
                write!(f, ": {waiting}{of_them} {requests} waiting{limit}")?;
                if let Some(wait) = wait {
                    write!(f, "; the expected wait is {} s", seconds(wait))?;
                }
            }
        }
        write!(f, "; try again in {} s", seconds(self.retry_after))
    }
}

/// The class has too many waiting requests, or a key that several clients share has. The request
/// was not sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Refused {
    whose: *whose,
    limit: *limit,
    limit_name,
    waiting: *waiting,
    predicted_wait: *predicted_wait,
    retry_after: *retry_after,
})]
#[non_exhaustive]
pub struct QueueFull {
    /// The number of waiting requests of the class, or of the shared key.
    pub waiting: usize,
    /// The clients that share a key ([`Entry::with_shared_key`](super::Entry::with_shared_key)), if
    /// only they are refused; other keys may still enter.
    pub whose: Option<&'static str>,
    /// The limit.
    pub limit: QueueLimit,
    /// The name of the limit; see [`QueueLimitNames`](super::QueueLimitNames).
    pub limit_name: &'static str,
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
#[error("{}", Refused {
    whose: Some(whose),
    limit: *limit,
    limit_name,
    waiting: *waiting,
    predicted_wait: *predicted_wait,
    retry_after: *retry_after,
})]
#[non_exhaustive]
pub struct KeyQueueFull {
    /// The number of the key's requests that wait for this class.
    pub waiting: usize,
    /// The client of the key, as it is told of it.
    pub whose: &'static str,
    /// The limit.
    pub limit: QueueLimit,
    /// The name of the limit; see [`QueueLimitNames`](super::QueueLimitNames).
    pub limit_name: &'static str,
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
    "no slot became free within {} s{}; try again in {} s",
    seconds(*.waited),
    Limit(*.limit_name),
    seconds(*.retry_after)
)]
#[non_exhaustive]
pub struct QueueTimeout {
    /// The time that the request waited.
    pub waited: Duration,
    /// The name of the limit, if it was that of the queue and not the entry's deadline; see
    /// [`QueueLimitNames`](super::QueueLimitNames).
    pub limit_name: Option<&'static str>,
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
