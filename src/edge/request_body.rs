//! The body of a request, and what happens if it is not read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use llamatower_layers::{BoxError, Deadline, Fail, Failure, Side};

use super::state::ConnectionState;

/// A request's body, as it arrives from the client.
///
/// If it is dropped before its end, it goes back to the connection, which reads and discards up to
/// 1 MiB for up to 2 s. A client that is still sending can then read its response, and a short rest
/// does not close the connection.
#[derive(Debug)]
pub struct RequestBody {
    /// `None` only during the drop.
    incoming: Option<Incoming>,
    state: Option<Arc<ConnectionState>>,
    /// The client waits for `100 Continue`, which the first read would send.
    waits_for_continue: bool,
    timeout: Option<Duration>,
    /// Runs only while the next piece is polled for, so that a slow backend does not count against
    /// the client.
    clock: Deadline,
}

impl RequestBody {
    pub(super) fn new(
        incoming: Incoming,
        state: &Arc<ConnectionState>,
        waits_for_continue: bool,
        timeout: Option<Duration>,
    ) -> Self {
        Self {
            state: (!incoming.is_end_stream()).then(|| state.clone()),
            incoming: Some(incoming),
            waits_for_continue,
            timeout,
            clock: Deadline::default(),
        }
    }

    /// The body of a request in HTTP/2, where an unread body concerns only its own stream.
    pub(super) fn of_stream(incoming: Incoming, timeout: Option<Duration>) -> Self {
        Self {
            incoming: Some(incoming),
            state: None,
            waits_for_continue: false,
            timeout,
            clock: Deadline::default(),
        }
    }

    /// Closes the connection after this request, because its body will not be read to the end.
    fn give_up(&mut self) {
        if let Some(state) = self.state.take() {
            state.set_unread(true);
            state.set_body_open(false);
        }
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
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        this.waits_for_continue = false;
        let frame = match &this.state {
            Some(state) => state.poll_piece(incoming, cx),
            None => Pin::new(incoming).poll_frame(cx),
        };
        if let Poll::Ready(frame) = frame {
            this.clock.disarm();
            let broken = |error| Failure::from(RequestBodyError::Broken(error)).into();
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        if !this.clock.is_armed() {
            this.clock.arm_after(this.timeout);
        }
        ready!(this.clock.poll(cx));
        this.give_up();
        let silence = this.timeout.unwrap_or_default();
        let silent = Failure::from(RequestBodyError::Silent(silence));
        Poll::Ready(Some(Err(silent.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Some(incoming) => incoming.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            return;
        }
        if self.waits_for_continue {
            // Reading would request a body that is not wanted. The client may send it anyway.
            self.give_up();
        } else if let (Some(incoming), Some(state)) = (self.incoming.take(), self.state.take()) {
            state.hand_over_body(incoming);
        }
    }
}

/// A request's body ended before it was complete.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// Nothing arrived for this long.
    #[error(
        "the request's body stopped arriving: no data for {0:?} (limit: LLAMATOWER_BODY_READ_TIMEOUT)"
    )]
    Silent(Duration),
    /// The client disconnected, or the body is malformed.
    #[error("the request's body is broken: {0}")]
    Broken(#[source] hyper::Error),
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
