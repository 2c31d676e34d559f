//! A response's body that holds back its error.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::Deadline;
use pin_project_lite::pin_project;

use crate::state::{Exchange, SocketState};

/// How many bytes hyper is given before the socket has flushed them. hyper's own limit is that of
/// its read buffer, which has to hold a whole head.
const MAX_UNFLUSHED: usize = 8 * 1024;

pin_project! {
    /// A response's body that holds back its error until the socket has flushed everything before
    /// it, and its frames while the client does not read.
    ///
    /// Without this, hyper buffers as much as its read buffer may hold for each client that reads
    /// slowly. A frame is given to hyper if no write waits for the client, and if less than 8 KiB
    /// are not flushed.
    ///
    /// hyper flushes nothing after a body's error: what it has buffered, perhaps even the
    /// response's head, would be lost. The error is held until the client has been sent all of it,
    /// however slowly it reads; if the client does not read at all, until the socket's time-out.
    ///
    /// It must be the outermost body, the one that hyper polls. [`ConnectionLayer`] applies it.
    ///
    /// [`ConnectionLayer`]: crate::ConnectionLayer
    #[derive(Debug)]
    pub struct ConnectionBody<B: Body> {
        #[pin]
        inner: B,
        // `None` for HTTP/2.
        exchange: Option<Exchange>,
        // Boxed, because most bodies do not fail and all are moved.
        held: Option<Box<Held<B::Error>>>,
        is_polled: bool,
        unflushed: usize,
    }
}

#[derive(Debug)]
struct Held<E> {
    error: E,
    clock: Deadline,
}

impl<B: Body> ConnectionBody<B> {
    /// Wraps the body of a response on the connection of a socket.
    pub fn new(inner: B, state: SocketState) -> Self {
        Self::maybe(inner, Some(Exchange::begin(state)))
    }

    pub(crate) fn maybe(inner: B, exchange: Option<Exchange>) -> Self {
        Self {
            inner,
            exchange,
            held: None,
            is_polled: false,
            unflushed: 0,
        }
    }

    /// The inner body.
    pub fn get_ref(&self) -> &B {
        &self.inner
    }

    /// The inner body.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<E> Held<E> {
    #[cold]
    fn new(error: E, state: &SocketState) -> Box<Self> {
        let mut clock = Deadline::default();
        clock.arm_after(state.write_stall_timeout());
        Box::new(Self { error, clock })
    }

    /// Ready when the error may be given to hyper.
    fn poll(&mut self, state: &SocketState, cx: &mut Context<'_>) -> Poll<()> {
        while state.poll_flushed(cx).is_pending() {
            ready!(self.clock.poll(cx));
            if !state.is_write_pending() {
                // hyper does not try to write. Its socket is another one, or it delays flushes.
                break;
            }
            // The socket's own clock supervises the write.
            self.clock.arm_after(state.write_stall_timeout());
        }
        Poll::Ready(())
    }
}

impl<B: Body> Body for ConnectionBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(exchange) = this.exchange else {
            return this.inner.poll_frame(cx);
        };
        let state = exchange.state();
        if !*this.is_polled {
            // hyper has just buffered the head.
            *this.is_polled = true;
            state.set_unflushed();
        }
        if this.held.is_none() {
            if *this.unflushed >= MAX_UNFLUSHED || state.is_write_pending() {
                ready!(state.poll_flushed(cx));
                *this.unflushed = 0;
            }
            // Not taken apart, so that it is not moved.
            let frame = this.inner.poll_frame(cx);
            match frame {
                Poll::Ready(Some(Err(error))) => {
                    *this.held = Some(Held::new(error, state));
                    // hyper flushes once more, also where it had nothing to write.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(_) => {
                    if let Poll::Ready(Some(Ok(frame))) = &frame
                        && let Some(data) = frame.data_ref()
                    {
                        if state.is_flushed() {
                            *this.unflushed = 0;
                        }
                        *this.unflushed += data.remaining();
                    }
                    // The end is written, too: as the last chunk.
                    state.set_unflushed();
                    return frame;
                }
            }
        }
        if let Some(held) = this.held {
            ready!(held.poll(state, cx));
        }
        Poll::Ready(this.held.take().map(|held| Err(held.error)))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::{Instant, advance};
    use tokio_test::{assert_pending, assert_ready};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A body of this many frames, and then an error.
    fn failing(frames: usize) -> impl Body<Data = Bytes, Error = &'static str> + Unpin {
        let frames = (0..frames).map(|_| Ok(Frame::data(Bytes::from("line"))));
        StreamBody::new(stream::iter(frames.chain([Err("broken")])))
    }

    #[tokio::test]
    async fn an_error_waits_for_the_flush_and_its_task_is_woken() {
        for frames in [0, 1, 3] {
            let state = SocketState::new(Some(LIMIT));
            let mut body = ConnectionBody::new(failing(frames), state.clone());
            for _ in 0..frames {
                assert!(matches!(body.frame().await, Some(Ok(_))));
            }
            let mut task = tokio_test::task::spawn(());
            assert_pending!(task.enter(|cx, _| Pin::new(&mut body).poll_frame(cx)));
            assert!(task.is_woken(), "hyper has another turn, with a flush");
            assert_pending!(task.enter(|cx, _| Pin::new(&mut body).poll_frame(cx)));
            assert!(!task.is_woken());
            state.set_flushed();
            assert!(task.is_woken());
            let frame = task.enter(|cx, _| Pin::new(&mut body).poll_frame(cx));
            let error = assert_ready!(frame).and_then(Result::err);
            assert_eq!(error, Some("broken"));
        }
    }

    #[tokio::test]
    async fn an_error_after_a_flush_does_not_wait() {
        let state = SocketState::new(Some(LIMIT));
        let mut body = ConnectionBody::new(failing(1), state.clone());
        assert!(matches!(body.frame().await, Some(Ok(_))));
        state.set_flushed();
        assert!(matches!(body.frame().await, Some(Err("broken"))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_before_which_nothing_is_written_waits_for_the_limit() {
        let state = SocketState::new(Some(LIMIT));
        let mut body = ConnectionBody::new(failing(0), state);
        let start = Instant::now();
        assert!(matches!(body.frame().await, Some(Err("broken"))));
        assert_eq!(start.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_waits_longer_while_a_write_is_pending() {
        let state = SocketState::new(Some(LIMIT));
        let mut body = ConnectionBody::new(failing(1), state.clone());
        assert!(matches!(body.frame().await, Some(Ok(_))));
        let mut task = tokio_test::task::spawn(());
        let mut poll = || task.enter(|cx, _| Pin::new(&mut body).poll_frame(cx));
        assert_pending!(poll());
        state.set_write_pending(true);
        for _ in 0..5 {
            advance(LIMIT).await;
            assert_pending!(poll());
        }
        state.set_write_pending(false);
        state.set_flushed();
        assert!(assert_ready!(poll()).is_some_and(|frame| frame.is_err()));
    }

    /// A body of frames of this many bytes that never ends.
    fn endless(bytes: usize) -> impl Body<Data = Bytes, Error = &'static str> + Unpin {
        let frame = move || Ok(Frame::data(Bytes::from(vec![0; bytes])));
        StreamBody::new(stream::repeat_with(frame))
    }

    #[tokio::test]
    async fn frames_wait_while_too_much_is_not_flushed() {
        let state = SocketState::new(None);
        let mut body = ConnectionBody::new(endless(MAX_UNFLUSHED / 4), state.clone());
        for _ in 0..2 {
            let mut task = tokio_test::task::spawn(());
            let mut poll = || task.enter(|cx, _| Pin::new(&mut body).poll_frame(cx));
            for _ in 0..4 {
                assert!(poll().is_ready());
            }
            assert_pending!(poll());
            state.set_flushed();
            assert!(task.is_woken());
        }
    }

    #[tokio::test]
    async fn frames_wait_while_a_write_waits_for_the_client() {
        let state = SocketState::new(None);
        let mut body = ConnectionBody::new(endless(1), state.clone());
        assert!(body.frame().await.is_some());
        state.set_write_pending(true);
        let mut task = tokio_test::task::spawn(());
        assert_pending!(task.enter(|cx, _| Pin::new(&mut body).poll_frame(cx)));
        state.set_write_pending(false);
        state.set_flushed();
        assert!(task.is_woken());
        assert!(body.frame().await.is_some());
    }

    #[tokio::test]
    async fn frames_that_are_flushed_one_by_one_never_wait() {
        let state = SocketState::new(None);
        let mut body = ConnectionBody::new(endless(MAX_UNFLUSHED / 4), state.clone());
        let mut task = tokio_test::task::spawn(());
        for _ in 0..100 {
            let frame = task.enter(|cx, _| Pin::new(&mut body).poll_frame(cx));
            assert!(frame.is_ready());
            state.set_flushed();
        }
    }

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    /// The waker of a connection may own the socket's state, which then would own itself.
    #[test]
    fn a_body_that_is_dropped_leaves_no_waker_in_the_state() {
        let state = SocketState::new(None);
        let mut body = ConnectionBody::new(endless(1), state.clone());
        state.set_write_pending(true);
        let task = Arc::new(Task);
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        assert_pending!(Pin::new(&mut body).poll_frame(&mut cx));
        drop((body, waker));
        assert_eq!(Arc::strong_count(&task), 1);
    }

    #[test]
    fn the_socket_knows_of_a_request_until_its_body_is_dropped() {
        let state = SocketState::new(None);
        let body = ConnectionBody::new(failing(1), state.clone());
        assert!(state.is_answering());
        drop(body);
        assert!(!state.is_answering());
    }
}
