//! What a refused request is told.

use std::error::Error;
use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// As many requests are in flight as may be. Nothing was sent anywhere, so the request may be
/// sent again after a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AtCapacity {
    /// The cap that is reached, in requests.
    pub max: NonZeroUsize,
}

impl fmt::Display for AtCapacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the service is at its capacity of {} requests in flight; try again in a moment",
            self.max
        )
    }
}

impl Error for AtCapacity {}

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
