//! What a refused request is told.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// As many requests are in flight as may be. Nothing was sent anywhere, so the request may be
/// sent again after a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service is at its capacity of {max} requests in flight; try again in a moment")]
#[non_exhaustive]
pub struct AtCapacity {
    /// The cap that is reached, in requests.
    pub max: NonZeroUsize,
}

impl Fail for AtCapacity {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "at_capacity"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}
