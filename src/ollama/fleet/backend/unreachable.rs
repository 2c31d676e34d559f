//! The error of the gateway's own requests.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use llamatower_layers::{Fail, Side};

/// A backend did not answer one of the gateway's own requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    backend: Box<str>,
    reason: String,
    /// It did not respond in time.
    is_late: bool,
    /// It did not respond at all.
    pub(super) is_silent: bool,
}

impl Unreachable {
    pub(in crate::ollama::fleet) fn new(backend: &str, reason: impl fmt::Display) -> Self {
        Self {
            backend: backend.into(),
            reason: reason.to_string(),
            is_late: false,
            is_silent: false,
        }
    }

    /// It did not respond to a request for `path` in time.
    pub(super) fn late(backend: &str, path: &str, limit: Duration) -> Self {
        Self {
            is_late: true,
            is_silent: true,
            ..Self::new(
                backend,
                format_args!("did not respond to {path} within {limit:?}"),
            )
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

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            backend, reason, ..
        } = self;
        match self.is_late {
            true => write!(f, "the backend {backend} {reason}"),
            false => write!(f, "no valid response from the backend {backend}: {reason}"),
        }
    }
}

impl Error for Unreachable {}

impl Fail for Unreachable {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        match self.is_late {
            true => StatusCode::GATEWAY_TIMEOUT,
            false => StatusCode::BAD_GATEWAY,
        }
    }
    fn kind(&self) -> &'static str {
        match self.is_late {
            true => "backend_down",
            false => "backend_unreachable",
        }
    }
}
