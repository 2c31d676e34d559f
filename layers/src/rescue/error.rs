//! The failures that are found here.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

/// The backend ended a stream without the item that every whole stream ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerUnfinished {
    /// Who that was, if the record of the request says it.
    pub backend: Option<Arc<str>>,
}

impl fmt::Display for AnswerUnfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the backend ")?;
        if let Some(backend) = &self.backend {
            write!(f, "{backend} ")?;
        }
        f.write_str("ended its answer before it was complete")
    }
}

impl Error for AnswerUnfinished {}

impl Fail for AnswerUnfinished {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "answer_unfinished"
    }
}

/// The gateway goes down, and the time for what was under way is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShuttingDown;

impl fmt::Display for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the gateway is shutting down")
    }
}

impl Error for ShuttingDown {}

impl Fail for ShuttingDown {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "shutting_down"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
}
