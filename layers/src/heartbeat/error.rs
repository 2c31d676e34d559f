//! The error for a response that is too late to be passed on.

use http::StatusCode;
use serde_json::Value;

use crate::{Fail, Retryable, Side};

/// The service refused the request after a heartbeat was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} (status {})", .status.as_u16())]
pub struct RefusedLate {
    /// The response's status.
    pub status: StatusCode,
    /// The error in its body.
    pub text: String,
}

impl RefusedLate {
    /// A response with this status and body.
    pub(super) fn of(status: StatusCode, body: &[u8]) -> Self {
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let error = json.as_ref().and_then(|json| json.get("error"));
        let text =
            error.and_then(|error| error.as_str().or_else(|| error.get("message")?.as_str()));
        let text = text.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
        let text = match text.trim() {
            "" => "the backend refused the request".to_owned(),
            text => text.to_owned(),
        };
        Self { status, text }
    }
}

impl Fail for RefusedLate {
    fn side(&self) -> Side {
        match self.status.is_client_error() {
            true => Side::Client,
            false => Side::Upstream,
        }
    }
    fn status(&self) -> StatusCode {
        self.status
    }
    fn kind(&self) -> &'static str {
        match self.status.is_client_error() {
            true => "refused_late_4xx",
            false => "refused_late_5xx",
        }
    }
    fn retryable(&self) -> Retryable {
        Retryable::No
    }
}
