//! The errors of this layer.

use std::sync::Arc;

use http::StatusCode;

use crate::{BoxError, Fail, Retryable, Side};

/// The backend ended a stream without the item that ends every complete stream.
///
/// Ollama up to 0.34.0 does that if the model has generated the same token more than 30 times in a row, and
/// on `/v1` also if its engine dies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the backend {}ended its response before it was complete: its engine died, or the model repeated one \
     token, which Ollama stops (a higher temperature or repeat_penalty helps)",
    .backend.as_ref().map(|name| format!("{name} ")).unwrap_or_default()
)]
pub struct AnswerUnfinished {
    /// The backend, if the request's record has it.
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

/// The end of a body after its error frame: the client has the error, and the connection must not
/// end cleanly. The server need not send anything more.
#[derive(Debug, thiserror::Error)]
#[error("the response broke, and the client received an error frame: {source}")]
pub struct BrokenStream {
    /// The cause.
    pub source: BoxError,
}

/// The gateway is shutting down, and the drain's time is over.
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
