//! The error of a refused request.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// The limit of concurrent requests is reached. The request was not sent, so it may be sent again
/// after a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service is at its limit of {max} concurrent requests; try again in a moment")]
#[non_exhaustive]
pub struct AtCapacity {
    /// The limit, in requests.
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
