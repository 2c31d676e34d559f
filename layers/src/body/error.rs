//! Errors while a request body is read.

use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::{BoxError, Deadline, Fail, Failure, Side};

/// The client's body ended early: its connection failed, or its framing was wrong.
#[derive(Debug, thiserror::Error)]
#[error("the request body could not be read to its end")]
pub struct ClientBodyFailed {
    source: BoxError,
}

impl ClientBodyFailed {
    /// Marks an error of a request body as the client's. An error that is a [`Failure`] already
    /// stays as it is.
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
    "the request body arrived too slowly: a pause of more than {waited:?}, or a rate below the minimum"
)]
pub struct BodyReadTimeout {
    /// The longest pause that is allowed between bytes.
    pub waited: Duration,
}

impl BodyReadTimeout {
    /// Call this when a body is pending. It is ready when the body was pending for `limit`, or at
    /// `latest`. Disarm `pause` when data arrives.
    pub(crate) fn poll(
        pause: &mut Deadline,
        limit: Duration,
        latest: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Self> {
        if !pause.is_armed() {
            // A limit that an `Instant` cannot hold means no limit.
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
