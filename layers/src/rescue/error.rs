//! The failures that are found here.

use std::sync::Arc;

use http::StatusCode;

use crate::{BoxError, Fail, Retryable, Side};

/// The backend ended a stream without the item that every whole stream ends with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the backend {}ended its answer before it was complete",
    .backend.as_ref().map(|name| format!("{name} ")).unwrap_or_default()
)]
pub struct AnswerUnfinished {
    /// Who that was, if the record of the request says it.
    pub backend: Option<Arc<str>>,
}

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

/// How a body ends after its error frame: the client was told, and the connection shall not end as
/// if all was well. Who holds the connection has nothing to add.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off, and the client was told: {source}")]
pub struct BrokenStream {
    /// Why it broke off.
    pub source: BoxError,
}

/// The gateway goes down, and the time for what was under way is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway is shutting down")]
pub struct ShuttingDown;

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
