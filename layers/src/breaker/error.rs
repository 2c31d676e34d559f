//! The error of a rejected request.

use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// The breaker is open after recent failures of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is open: recent requests to the backend failed; retry later")]
pub struct CircuitOpen {
    /// Time until a request may be sent.
    pub retry_after: Duration,
}

impl Fail for CircuitOpen {
    // The gateway's side: another breaker would otherwise count the same failure of the backend
    // twice.
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "circuit_open"
    }
    // A retry here would wait for the breaker while it holds the request's permits.
    fn retryable(&self) -> Retryable {
        Retryable::Elsewhere
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
    }
}
