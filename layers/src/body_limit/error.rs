//! The reasons why a body is not read.

use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Side};

/// The body is longer than its route allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request body too large: at most {limit} bytes are allowed here")]
pub struct BodyTooLarge {
    /// The limit in bytes.
    pub limit: u64,
}

impl Fail for BodyTooLarge {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::PAYLOAD_TOO_LARGE
    }
    fn kind(&self) -> &'static str {
        "body_too_large"
    }
}

/// Other requests' bodies use the whole memory budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway's memory for request bodies is in use, please try again")]
pub struct BodyMemoryExhausted;

impl Fail for BodyMemoryExhausted {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "body_memory_exhausted"
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}
