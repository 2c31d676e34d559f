//! How the reading of a client's body fails.

use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::{BoxError, Deadline, Fail, Failure, Side};

/// The client's body broke off: its connection failed, or its framing was wrong.
#[derive(Debug, thiserror::Error)]
#[error("the request body could not be read to its end")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the request body came too slowly: a pause of more than {waited:?}, or too few bytes in the time"
)]
pub struct BodyReadTimeout {
    /// How long the gateway waited for the next bytes, at most.
    pub waited: Duration,
}

impl BodyReadTimeout {
    /// To be called when a body has nothing ready: ready when it has had nothing for `limit`, or
    /// when it is past `latest`. `pause` is to be disarmed when something comes.
    pub(crate) fn poll(
        pause: &mut Deadline,
        limit: Duration,
        latest: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Self> {
        if !pause.is_armed() {
            // A limit beyond what an `Instant` can hold is none.
            let end = Instant::now().checked_add(limit);
            pause.arm(end.into_iter().chain(latest).min());
        }
        pause.poll(cx).map(|()| Self { waited: limit })
    }
}

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
