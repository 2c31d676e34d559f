//! What a refused request is told.

use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// The backend failed so often of late that it is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backend has failed several times of late and is left alone for a moment")]
pub struct CircuitOpen {
    /// After how long a request may try.
    pub retry_after: Duration,
}

impl Fail for CircuitOpen {
    // The gateway refuses: another breaker that saw this as the backend's failure would count
    // the same failure twice.
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "circuit_open"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
    }
}
