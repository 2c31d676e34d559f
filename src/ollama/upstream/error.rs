//! Errors between the gateway and a backend.

use std::io;
use std::time::Duration;

use http::StatusCode;
use llamatower_layers::{BoxError, Fail, Retryable, Side};

use super::Address;

/// The backend did not accept a connection.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the backend {address}: {source}")]
pub struct ConnectFailed {
    address: Address,
    source: io::Error,
}

impl ConnectFailed {
    pub(super) fn new(address: &Address, source: io::Error) -> Self {
        Self {
            address: address.clone(),
            source,
        }
    }
}

impl Fail for ConnectFailed {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "connect_failed"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
}

/// The backend did not accept a connection in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "the backend {address} did not accept a connection within {after:?} (limit: LLAMATOWER_CONNECT_TIMEOUT)"
)]
pub struct ConnectTimeout {
    address: Address,
    after: Duration,
}

impl ConnectTimeout {
    pub(super) fn new(address: &Address, after: Duration) -> Self {
        Self {
            address: address.clone(),
            after,
        }
    }
}

impl Fail for ConnectTimeout {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::GATEWAY_TIMEOUT
    }
    fn kind(&self) -> &'static str {
        "connect_timeout"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
}

/// The connection to the backend broke before a response.
#[derive(Debug, thiserror::Error)]
#[error("the backend {address} closed the connection before it answered")]
pub struct ConnectionLost {
    address: Address,
    reused: bool,
    source: BoxError,
}

impl ConnectionLost {
    pub(super) fn new(address: &Address, reused: bool, source: impl Into<BoxError>) -> Self {
        Self {
            address: address.clone(),
            reused,
            source: source.into(),
        }
    }

    /// The address of the backend.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether the connection had served other requests. The backend may have closed it because it was
    /// idle, without having seen this request.
    pub fn is_reused(&self) -> bool {
        self.reused
    }
}

impl Fail for ConnectionLost {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        if self.reused {
            "stale_connection"
        } else {
            "connection_lost"
        }
    }
    /// No byte of a response was received. The route decides whether the request may be sent again, and
    /// [`CountLost`](crate::ollama::servers_lost::CountLost) how often.
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
}

/// The backend's response is not acceptable HTTP.
#[derive(Debug, thiserror::Error)]
#[error("invalid response from the backend {address}: {reason}")]
pub struct InvalidAnswer {
    address: Address,
    reason: &'static str,
}

impl InvalidAnswer {
    pub(super) fn new(address: &Address, reason: &'static str) -> Self {
        Self {
            address: address.clone(),
            reason,
        }
    }
}

impl Fail for InvalidAnswer {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "invalid_answer"
    }
}

/// The connection to the backend broke in the middle of its response.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the backend {address} broke in the middle of its response")]
pub struct AnswerBroken {
    address: Address,
    source: BoxError,
}

impl AnswerBroken {
    pub(super) fn new(address: &Address, source: impl Into<BoxError>) -> Self {
        Self {
            address: address.clone(),
            source: source.into(),
        }
    }
}

impl Fail for AnswerBroken {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "answer_broken"
    }
}
