//! One connection: hyper's connection with time-outs and an orderly close.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use llamatower_edge::WriteStalled;
use llamatower_layers::Deadline;
use socket2::SockRef;
use tokio::time::Instant;
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::listener::Stream;
use super::refusal::{DISCARD_BYTES, DISCARD_TIME, Refusal, linger};
use super::service::EdgeService;
use super::socket::EdgeSocket;
use super::stack::HttpStack;
use super::state::{ConnectionState, Phase, UnreadBodies};
use super::transport::Transport;

/// Least size of hyper's buffer for output that waits to be written.
const BUFFER_BYTES: usize = 64 * 1024;

/// hyper's own limit of a head's fields. To set the same costs 1,700 instructions for each request, because
/// hyper then has no array of a fixed size.
const HYPER_HEAD_FIELDS: usize = 100;

type Http<S> = http1::Connection<TokioIo<EdgeSocket<Transport>>, EdgeService<S>>;

/// What is left to do on the socket of a connection that has ended.
type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Time-outs and size limits of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header: Duration,
    pub(super) keep_alive: Duration,
    pub(super) total: Option<Duration>,
    pub(super) write_stall: Option<Duration>,
    pub(super) head_bytes: usize,
    pub(super) head_fields: usize,
    /// Whether a connection without TLS may be HTTP/2.
    pub(super) plain_http2: bool,
}

/// Tokens that close a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Closing {
    /// Close after the request in flight.
    pub(super) graceful: CancellationToken,
    /// Close at once. Observed only after `graceful` is cancelled.
    pub(super) now: CancellationToken,
}

/// Serves a connection in HTTP/1.1 until it ends. A `head_deadline` is that of a head of which a part
/// has already arrived.
///
/// Not an `async fn`, which would reserve memory for its arguments beside that of hyper's connection.
pub(super) fn serve_http<S: HttpStack>(
    socket: EdgeSocket<Transport>,
    service: EdgeService<S>,
    limits: Limits,
    closing: Closing,
    head_deadline: Option<Instant>,
) -> impl Future<Output = ()> {
    let state = service.state.clone();
    let mut http = http1::Builder::new();
    // hyper has one time-out for the head and the idle time before it, and sends no response when it
    // expires. The edge has two clocks, and sends a response.
    http.header_read_timeout(None)
        .max_buf_size(limits.head_bytes.max(BUFFER_BYTES))
        .max_header_size(limits.head_bytes)
        .half_close(false)
        // Pieces that are ready together are sent in one write.
        .writev(false);
    if limits.head_fields != HYPER_HEAD_FIELDS {
        http.max_headers(limits.head_fields);
    }
    let mut connection = Connection {
        http: http.serve_connection(TokioIo::new(socket), service),
        waker: Waker::from(state.clone()),
        limits,
        closing: Some(Box::pin(closing.graceful.cancelled_owned())),
        ended: Box::pin(closing.now.cancelled_owned()),
        past_upgrade: false,
        handed_over: state.accept_bodies(),
        unread: None,
        clock: head_deadline.map_or_else(Deadline::default, Deadline::new),
        timed: head_deadline.map(|_| state.phase().0),
        state,
    };
    async move {
        let end = poll_fn(|cx| connection.poll(cx)).await;
        if let Some(rest) = connection.end(end) {
            rest.await;
        }
    }
}

/// The time-out of a stalled write, if that is why the connection failed.
pub(super) fn stalled(error: &hyper::Error) -> Option<&WriteStalled> {
    let error = error.source()?.downcast_ref::<io::Error>()?;
    error.get_ref()?.downcast_ref()
}

/// How a connection ended.
enum End {
    Closed(hyper::Result<()>),
    Clock(Phase),
    Now,
}

impl End {
    fn cuts_an_answer(&self) -> bool {
        match self {
            Self::Closed(result) => result.is_err(),
            Self::Clock(phase) => *phase == Phase::Exchange,
            Self::Now => true,
        }
    }

    /// The refusal that the client still has to receive, if no response explains the end.
    fn refusal(&self, state: &ConnectionState) -> Option<Refusal> {
        match self {
            Self::Clock(Phase::Head) if state.take_read() > 0 => Some(Refusal::HeadTimeout),
            Self::Closed(Err(error))
                if state.has_refused()
                    || (error.is_parse_version_h2() && state.socket.is_flushed()) =>
            {
                Some(match error.is_parse_too_large() {
                    true => Refusal::HeadTooLarge,
                    false => Refusal::Malformed,
                })
            }
            _ => None,
        }
    }
}

struct Connection<S: HttpStack> {
    http: Http<S>,
    state: Arc<ConnectionState>,
    /// The state's waker, given to hyper.
    waker: Waker,
    limits: Limits,
    /// `None` once it has fired.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    past_upgrade: bool,
    /// Dropped after `http`, whose request may hand over its body as it ends.
    handed_over: UnreadBodies,
    unread: Option<UnreadBody>,
    clock: Deadline,
    /// The phase for which the clock was started.
    timed: Option<u32>,
}

impl<S: HttpStack> Connection<S> {
    /// Ends the connection, and returns what is left to do on its socket. That is boxed, because it would
    /// reserve memory for the whole connection, and few connections need it.
    fn end(self, end: End) -> Option<Rest> {
        let state = self.state;
        match &end {
            End::Closed(Ok(())) => tracing::trace!("connection closed"),
            End::Closed(Err(error)) => match stalled(error) {
                Some(stalled) => {
                    tracing::debug!("{stalled} (limit: LLAMATOWER_WRITE_STALL_TIMEOUT)");
                }
                None => tracing::debug!(%error, "connection failed"),
            },
            End::Clock(phase) => tracing::debug!(?phase, "connection timed out"),
            End::Now => return None,
        }
        let http1::Parts {
            io,
            read_buf,
            service,
            ..
        } = self.http.into_parts();
        let transport = io.into_inner().into_inner();
        if let Some(refusal) = end.refusal(&state) {
            state.gauges.refused_heads.fetch_add(1, Relaxed);
            let dialect = service.rules.refuse_head(refusal, &read_buf, service.peer);
            return Some(Box::pin(refusal.send(transport, dialect)));
        }
        if state.is_http_10() && end.cuts_an_answer() {
            reset(transport.stream());
            return None;
        }
        let unread =
            state.is_unread() || !read_buf.is_empty() || matches!(end, End::Closed(Err(_)));
        if unread && !state.socket.has_peer_closed() && !state.socket.has_write_failed() {
            return Some(Box::pin(linger(transport)));
        }
        if matches!(end, End::Clock(Phase::Head | Phase::Idle)) {
            transport.close_idle();
        }
        None
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.state.begin_turn(cx.waker());
        if self.poll_closing(cx).is_ready() {
            return Poll::Ready(End::Now);
        }
        if let Poll::Ready(result) = self.poll_http() {
            return Poll::Ready(End::Closed(result));
        }
        self.poll_unread(cx);
        self.poll_clock(cx).map(End::Clock)
    }

    /// Ready when the connection must end at once.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(closing) = &mut self.closing {
            ready!(closing.as_mut().poll(cx));
            self.closing = None;
            Pin::new(&mut self.http).graceful_shutdown();
        }
        self.ended.as_mut().poll(cx)
    }

    fn poll_http(&mut self) -> Poll<hyper::Result<()>> {
        loop {
            let cx = &mut Context::from_waker(&self.waker);
            let result = ready!(Pin::new(&mut self.http).poll(cx));
            // If a request offered an upgrade, hyper returns before it has flushed the last
            // response. Polled once more, it flushes and shuts down.
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
            self.clock.arm_after(self.limits.of(phase));
        }
        while self.clock.poll(cx).is_ready() {
            if phase == Phase::Exchange || !self.state.socket.is_write_pending() {
                return Poll::Ready(phase);
            }
            // The response is still being written; the socket's own clock supervises that.
            self.clock.arm_after(self.limits.of(phase));
        }
        Poll::Pending
    }

    /// Reads and discards the body that a request left unread, within the limits.
    fn poll_unread(&mut self, cx: &mut Context<'_>) {
        if let Some(body) = self.handed_over.take() {
            let mut clock = Deadline::default();
            clock.arm_after(Some(DISCARD_TIME));
            self.unread = Some(UnreadBody {
                body,
                bytes: 0,
                clock,
            });
        }
        let Some(unread) = &mut self.unread else {
            return;
        };
        if let Poll::Ready(ended) = unread.poll(&self.state, cx) {
            self.unread = None;
            if !ended {
                self.state.set_unread(true);
                // hyper notices by the drop that it need not read on.
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

/// A body that the stack did not read to its end.
struct UnreadBody {
    body: Incoming,
    bytes: usize,
    clock: Deadline,
}

impl UnreadBody {
    /// Ready with `true` if the body has ended, with `false` if a limit was reached.
    fn poll(&mut self, state: &Arc<ConnectionState>, cx: &mut Context<'_>) -> Poll<bool> {
        while let Poll::Ready(frame) = state.poll_piece(&mut self.body, cx) {
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

/// Closes a socket with a reset, so that the client notices that the response is incomplete. An
/// HTTP/1.0 response may end with the connection, so the client would take a normal close for its
/// end.
fn reset(stream: &Stream) {
    let now = Some(Duration::ZERO);
    // If this fails, the socket is closed normally.
    let _ = match stream {
        Either::Left(stream) => SockRef::from(stream).set_linger(now),
        Either::Right(stream) => SockRef::from(stream).set_linger(now),
    };
}
