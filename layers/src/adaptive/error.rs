//! The error of a refused request.

use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// The limit of concurrent requests is reached: the server could not answer more of them in time.
/// The request was not sent, so it may be sent to another backend, or again after a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is at its limit of {limit} concurrent requests; try again in a moment")]
#[non_exhaustive]
pub struct LimitReached {
    /// The current limit, in requests.
    pub limit: usize,
}

impl Fail for LimitReached {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "limit_reached"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}
