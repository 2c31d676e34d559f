//! What can go wrong between the gateway and a backend.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use http::StatusCode;
use llamatower_layers::{Fail, Retryable, Side};

use super::Address;

/// The backend did not accept a connection.
#[derive(Debug)]
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

impl fmt::Display for ConnectFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot connect to the backend {}: {}",
            self.address, self.source
        )
    }
}

impl Error for ConnectFailed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
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
#[derive(Debug)]
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

impl fmt::Display for ConnectTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the backend {} did not accept a connection within {:?}",
            self.address, self.after
        )
    }
}

impl Error for ConnectTimeout {}

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

/// The connection to the backend broke before an answer.
#[derive(Debug)]
pub struct ConnectionLost {
    address: Address,
    reused: bool,
    source: io::Error,
}

impl ConnectionLost {
    pub(super) fn new(address: &Address, reused: bool, source: io::Error) -> Self {
        Self {
            address: address.clone(),
            reused,
            source,
        }
    }
}

impl fmt::Display for ConnectionLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the backend {} closed the connection before it answered",
            self.address
        )
    }
}

impl Error for ConnectionLost {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
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
    /// No byte of an answer was seen; whether the request may run twice is the route's word.
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
}

/// The backend sent what is not an acceptable HTTP answer.
#[derive(Debug)]
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

impl fmt::Display for InvalidAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the answer of the backend {} was refused: {}",
            self.address, self.reason
        )
    }
}

impl Error for InvalidAnswer {}

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

/// The connection to the backend broke in the middle of its answer.
#[derive(Debug)]
pub struct AnswerBroken {
    address: Address,
    source: io::Error,
}

impl AnswerBroken {
    pub(super) fn new(address: &Address, source: io::Error) -> Self {
        Self {
            address: address.clone(),
            source,
        }
    }
}

impl fmt::Display for AnswerBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the backend {} broke off in the middle of its answer",
            self.address
        )
    }
}

impl Error for AnswerBroken {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
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
