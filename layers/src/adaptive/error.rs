//! What a refused request is told.

use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// As many requests are in flight as the server can begin to answer in time. Nothing was sent,
/// so the request may be sent elsewhere, or again after a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server answers {limit} requests now and would answer no more of them in time; try again in a \
     moment"
)]
#[non_exhaustive]
pub struct LimitReached {
    /// The limit at the moment, in requests.
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
