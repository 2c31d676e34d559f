//! The error of the gateway's own requests.

use std::fmt;

use http::StatusCode;
use llamatower_layers::{Fail, Side};

/// A backend did not answer one of the gateway's own requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no valid response from the backend {backend}: {reason}")]
pub struct Unreachable {
    backend: Box<str>,
    reason: String,
    /// It did not respond at all.
    pub(super) is_silent: bool,
}

impl Unreachable {
    pub(in crate::ollama::fleet) fn new(backend: &str, reason: impl fmt::Display) -> Self {
        Self {
            backend: backend.into(),
            reason: reason.to_string(),
            is_silent: false,
        }
    }

    pub(super) fn silent(mut self) -> Self {
        self.is_silent = true;
        self
    }

    /// The reason, without the backend's name.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Fail for Unreachable {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "backend_unreachable"
    }
}
