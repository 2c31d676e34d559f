//! The error of a refused request.

use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// As many requests of the key as may run at a time run, and no further one may wait, or this one has
/// waited for too long. It was not sent to a backend, so it may be sent again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this client may have {limit} requests at a time, and {}; try again when one of them has ended",
    reason(*.waited, *.waiting)
)]
#[non_exhaustive]
pub struct KeyConcurrencyReached {
    /// The limit, in requests.
    pub limit: NonZeroU32,
    /// The waiting requests of the key, without this one.
    pub waiting: usize,
    /// How long this one has waited; `None` if it was refused at once.
    pub waited: Option<Duration>,
}

fn reason(waited: Option<Duration>, waiting: usize) -> String {
    match waited {
        Some(waited) => format!("this one has waited {} s for its turn", waited.as_secs()),
        None => format!("{waiting} more of its requests wait already"),
    }
}

impl Fail for KeyConcurrencyReached {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::TOO_MANY_REQUESTS
    }
    fn kind(&self) -> &'static str {
        "key_concurrency"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}
