//! The body of a response in HTTP/2: in small pieces, whose sending is watched.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::streams::StreamState;

/// The largest piece, in bytes: that of a frame by default. hyper asks for the next piece only when the
/// client's window has let the last one pass, so a client that reads slowly is seen to read.
const PIECE: usize = 16 * 1024;

pin_project! {
    /// Cuts a body into pieces, and tells the stream's task when hyper has one.
    pub(super) struct StreamBody<B> {
        #[pin]
        inner: B,
        state: Arc<StreamState>,
        rest: Bytes,
    }
}

impl<B> StreamBody<B> {
    pub(super) fn new(inner: B, state: Arc<StreamState>) -> Self {
        Self {
            inner,
            state,
            rest: Bytes::new(),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for StreamBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        this.state.piece_wanted();
        if this.rest.is_empty() {
            let frame = match ready!(this.inner.poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => *this.rest = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        this.state.piece_given();
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest.is_empty() {
            true => self.inner.size_hint(),
            // hyper asks only before the first piece.
            false => SizeHint::default(),
        }
    }
}
