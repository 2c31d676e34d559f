//! One connection: hyper's, with the clocks round it and a decent end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use llamatower_layers::BoxError;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio_util::either::Either;
use tower::Service;

use super::RequestBody;
use super::clock::Clock;
use super::exchange::Exchange;
use super::listener::Stream;
use super::socket::StallGuard;
use super::state::{ConnectionState, Phase};

/// Bytes of an unread body that are read and discarded.
const DISCARD_BYTES: usize = 1024 * 1024;
/// How long they are waited for.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// What hyper may hold of a request's head, and of an answer that waits to be written.
const BUFFER_BYTES: usize = 64 * 1024;

type Http<S> = http1::Connection<TokioIo<StallGuard<Stream>>, Exchange<S>>;

/// How long each phase of a connection may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header: Duration,
    pub(super) keep_alive: Duration,
    pub(super) total: Option<Duration>,
    pub(super) write_stall: Option<Duration>,
}

/// Serves a connection to its end. `close` asks it to end after the request under way.
pub(super) async fn serve<S, B>(
    stream: Stream,
    exchange: Exchange<S>,
    limits: Limits,
    close: oneshot::Receiver<()>,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let state = exchange.state.clone();
    let io = StallGuard::new(stream, limits.write_stall, state.clone());
    let mut connection = Connection {
        http: http1::Builder::new()
            // hyper has one clock for the head and the pause before it, and without a timer
            // none at all; the two are kept apart here.
            .header_read_timeout(None)
            .max_buf_size(BUFFER_BYTES)
            .max_header_size(BUFFER_BYTES)
            .half_close(false)
            .serve_connection(TokioIo::new(io), exchange),
        state: state.clone(),
        limits,
        close: Some(close),
        past_upgrade: false,
        left: None,
        clock: Clock::default(),
        timed: None,
    };
    let end = std::future::poll_fn(|cx| connection.poll(cx)).await;
    match &end {
        End::Closed(Ok(())) => tracing::trace!("connection closed"),
        End::Closed(Err(error)) => tracing::debug!(%error, "connection failed"),
        End::Clock(phase) => tracing::debug!(?phase, "connection timed out"),
    }
    let http1::Parts { io, read_buf, .. } = connection.http.into_parts();
    let stream = io.into_inner().into_inner();
    if state.is_http_10() && end.cuts_an_answer() {
        reset(stream);
        return;
    }
    let unread = state.is_unread() || !read_buf.is_empty() || matches!(end, End::Closed(Err(_)));
    if unread && !state.has_peer_closed() && !state.has_write_failed() {
        linger(stream).await;
    }
}

/// How a connection ended.
enum End {
    Closed(hyper::Result<()>),
    Clock(Phase),
}

impl End {
    fn cuts_an_answer(&self) -> bool {
        match self {
            Self::Closed(Ok(())) => false,
            Self::Closed(Err(error)) => error.is_user(),
            Self::Clock(phase) => *phase == Phase::Exchange,
        }
    }
}

struct Connection<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    http: Http<S>,
    state: Arc<ConnectionState>,
    limits: Limits,
    close: Option<oneshot::Receiver<()>>,
    past_upgrade: bool,
    left: Option<Left>,
    clock: Clock,
    /// The phase that the clock was started for.
    timed: Option<u32>,
}

impl<S, B> Connection<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.state.is_polled_by(cx.waker());
        self.state.begin_turn();
        if let Some(close) = &mut self.close
            && Pin::new(close).poll(cx).is_ready()
        {
            self.close = None;
            Pin::new(&mut self.http).graceful_shutdown();
        }
        if let Poll::Ready(result) = self.poll_http(cx) {
            return Poll::Ready(End::Closed(result));
        }
        self.poll_left(cx);
        self.poll_clock(cx).map(End::Clock)
    }

    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        loop {
            let result = ready!(Pin::new(&mut self.http).poll(cx));
            // A request that offered an upgrade makes hyper return before it has flushed the
            // last answer; asked once more it flushes and shuts down.
            if result.is_err() || self.state.is_shut_down() || self.past_upgrade {
                return Poll::Ready(result);
            }
            self.past_upgrade = true;
        }
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        let (word, phase) = self.state.phase();
        if self.timed != Some(word) {
            self.timed = Some(word);
            self.clock.start(self.limits.of(phase));
        }
        while self.clock.poll(cx).is_ready() {
            if phase != Phase::Idle || !self.state.has_write_pending() {
                return Poll::Ready(phase);
            }
            // The answer is on its way still; the socket's own clock watches it.
            self.clock.start(self.limits.of(phase));
        }
        Poll::Pending
    }

    /// Reads and discards what a request left unread, within bounds.
    fn poll_left(&mut self, cx: &mut Context<'_>) {
        if let Some(body) = self.state.take_left() {
            let mut clock = Clock::default();
            clock.start(Some(DISCARD_TIME));
            self.left = Some(Left {
                body,
                bytes: 0,
                clock,
            });
        }
        let Some(left) = &mut self.left else { return };
        if let Poll::Ready(ended) = left.poll(cx) {
            self.left = None;
            if !ended {
                self.state.set_unread(true);
                // hyper learns by the drop that it need not read on.
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl Limits {
    fn of(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Head => Some(self.header),
            Phase::Idle => Some(self.keep_alive),
            Phase::Exchange => self.total,
        }
    }
}

/// A body that nobody reads.
struct Left {
    body: Incoming,
    bytes: usize,
    clock: Clock,
}

impl Left {
    /// Ready with whether the body came to its end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            match frame {
                Some(Ok(frame)) => self.bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return Poll::Ready(false),
                None => return Poll::Ready(true),
            }
            if self.bytes > DISCARD_BYTES {
                return Poll::Ready(false);
            }
        }
        self.clock.poll(cx).map(|()| false)
    }
}

/// Closes a socket so that its client sees that something is missing. An answer of HTTP/1.0 may
/// end with the connection, and a close would pass for that.
fn reset(stream: Stream) {
    let now = Some(Duration::ZERO);
    // If the system refuses, a plain close is all there is.
    let _ = match &stream {
        Either::Left(stream) => SockRef::from(stream).set_linger(now),
        Either::Right(stream) => SockRef::from(stream).set_linger(now),
    };
}

/// Closes a socket on which bytes may arrive that nobody wants. Closed outright, the kernel
/// would answer them with a reset, and the reset can destroy an answer that the client has not
/// read yet. So: the end of our side first, then reading for a while, then the close.
pub(super) async fn linger(mut stream: Stream) {
    let end = std::future::poll_fn(move |cx| {
        let mut stream = Pin::new(&mut stream);
        if ready!(stream.as_mut().poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        let mut discarded = 0;
        let mut piece = [std::mem::MaybeUninit::uninit(); 8 * 1024];
        while discarded < DISCARD_BYTES {
            let mut piece = ReadBuf::uninit(&mut piece);
            match ready!(stream.as_mut().poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => discarded += piece.filled().len(),
                _ => return Poll::Ready(()),
            }
        }
        // Whoever still sends is held by its window until the time is over.
        Poll::Pending
    });
    let _ = tokio::time::timeout(DISCARD_TIME, end).await;
}
