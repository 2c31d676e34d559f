//! How the reading of a client's body fails.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::{BoxError, Fail, Failure, Side};

/// The client's body broke off: its connection failed, or its framing was wrong.
#[derive(Debug)]
pub struct ClientBodyFailed {
    source: BoxError,
}

impl ClientBodyFailed {
    /// Marks an error of a request's body as the client's. One that says already what it means
    /// is left as it is.
    pub(crate) fn mark(error: impl Into<BoxError>) -> BoxError {
        let source = error.into();
        if Failure::find(&*source).is_some() {
            return source;
        }
        Failure::from(Self { source }).into()
    }
}

impl fmt::Display for ClientBodyFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request body could not be read to its end")
    }
}

impl Error for ClientBodyFailed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

impl Fail for ClientBodyFailed {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "client_body_failed"
    }
}

/// The client sent its body too slowly (RFC 9110 15.5.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyReadTimeout {
    /// How long the gateway waited for the next bytes, at most.
    pub waited: Duration,
}

impl fmt::Display for BodyReadTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the request body came too slowly: a pause of more than {:?}, or too few bytes in the time",
            self.waited
        )
    }
}

impl Error for BodyReadTimeout {}

impl Fail for BodyReadTimeout {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::REQUEST_TIMEOUT
    }
    fn kind(&self) -> &'static str {
        "body_read_timeout"
    }
}
