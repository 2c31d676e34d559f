//! The body of an answer of the stack, on its way to hyper.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::body::Guarded;
use pin_project_lite::pin_project;

use super::chunking::Chunking;
use super::state::{ConnectionState, InFlight};

pin_project! {
    /// A body that is asked once a turn, and handed on a chunk at a time.
    ///
    /// hyper polls a body again after it was pending, lest a write that came between had made a
    /// difference. What has become ready since wakes the connection, whose task then has another
    /// turn: until then the answer is known, and the layers below need not be asked for it.
    pub(super) struct StackBody<B> {
        #[pin]
        inner: Guarded<B, InFlight>,
        chunking: Chunking,
        state: Arc<ConnectionState>,
        pending_in: Option<u32>,
    }
}

impl<B: Body> StackBody<B> {
    pub(super) fn new(
        inner: B,
        chunking: Chunking,
        in_flight: Option<InFlight>,
        state: Arc<ConnectionState>,
    ) -> Self {
        Self {
            inner: Guarded::maybe(inner, in_flight),
            chunking,
            state,
            pending_in: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for StackBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(chunk) = this.chunking.next() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        let turn = Some(this.state.turn());
        if *this.pending_in == turn {
            return Poll::Pending;
        }
        let frame = this.inner.poll_frame(cx);
        if frame.is_pending() {
            *this.pending_in = turn;
        }
        frame.map_ok(|frame| match frame.into_data() {
            Ok(data) => Frame::data(this.chunking.first_of(data)),
            Err(trailers) => trailers,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.chunking.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.chunking.is_empty() {
            true => self.inner.size_hint(),
            false => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::task::noop_waker_ref;
    use http::HeaderMap;

    use super::*;

    /// Pending the first time, and how often it was asked.
    struct Late(usize);

    impl Body for Late {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            match self.0 {
                1 => Poll::Pending,
                _ => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"line"))))),
            }
        }
    }

    #[test]
    fn a_pending_body_is_asked_again_in_the_next_turn() {
        let state = ConnectionState::new(Arc::default());
        let mut body = StackBody::new(
            Late(0),
            Chunking::of(&HeaderMap::new()),
            None,
            state.clone(),
        );
        let mut cx = Context::from_waker(noop_waker_ref());
        state.begin_turn();
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        state.begin_turn();
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
    }
}
