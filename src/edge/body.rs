//! The body of a request, and what becomes of it when nobody reads it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::{BoxError, Fail, Failure, Side};

use super::clock::Clock;
use super::inbox::Inbox;

/// A request's body on its way from the client.
///
/// Dropped before its end it is not closed but left to the connection, which reads and discards
/// up to 1 MiB for up to 2 s: a client that is still sending gets to read its answer, and a small
/// rest does not cost the connection.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    /// What is still to be taken, if the head has said how long the body is.
    left: Option<u64>,
    timeout: Option<Duration>,
    /// Runs only while someone asks for the next piece, so a slow backend is not held against
    /// the client.
    clock: Clock,
}

#[derive(Debug)]
enum Source {
    /// All of it came with the head.
    Whole(Bytes),
    Inbox(Arc<Inbox>),
}

impl RequestBody {
    pub(super) fn whole(data: Bytes) -> Self {
        Self {
            left: Some(data.len() as u64),
            source: Source::Whole(data),
            timeout: None,
            clock: Clock::default(),
        }
    }

    /// One that comes through `inbox`; `left` is how long it is, if that is known.
    pub(super) fn coming(inbox: Arc<Inbox>, left: Option<u64>, timeout: Option<Duration>) -> Self {
        Self {
            source: Source::Inbox(inbox),
            left,
            timeout,
            clock: Clock::default(),
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let inbox = match &mut self.source {
            Source::Whole(data) if data.is_empty() => return Poll::Ready(None),
            Source::Whole(data) => return Poll::Ready(Some(Ok(std::mem::take(data)))),
            Source::Inbox(inbox) => inbox,
        };
        if let Poll::Ready(piece) = inbox.poll_take(cx) {
            self.clock.stop();
            let broken = |error| Failure::from(RequestBodyError::Broken(error)).into();
            return Poll::Ready(piece.map(|piece| piece.map_err(broken)));
        }
        if !self.clock.is_running() {
            self.clock.start(self.timeout);
        }
        ready!(self.clock.poll(cx));
        let silence = self.timeout.unwrap_or_default();
        let silent = Failure::from(RequestBodyError::Silent(silence));
        Poll::Ready(Some(Err(silent.into())))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let piece = ready!(this.poll_piece(cx));
        if let (Some(left), Some(Ok(data))) = (&mut this.left, &piece) {
            *left -= data.len() as u64;
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(data) => data.is_empty(),
            Source::Inbox(inbox) => self.left == Some(0) || inbox.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Source::Inbox(inbox) = &self.source {
            inbox.leave();
        }
    }
}

/// A request's body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// The client was silent for this long.
    #[error("the request's body stopped arriving: nothing for {0:?}")]
    Silent(Duration),
    /// The client went away, or what it sent is no body.
    #[error("the request's body is broken: {0}")]
    Broken(#[source] io::Error),
}

impl Fail for RequestBodyError {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        match self {
            Self::Silent(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
    fn kind(&self) -> &'static str {
        match self {
            Self::Silent(_) => "request_body_timeout",
            Self::Broken(_) => "request_body_broken",
        }
    }
}
