//! One connection: hyper's, with the clocks round it and a decent end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use llamatower_layers::{BoxError, Deadline};
use socket2::SockRef;
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::Service;

use super::gauges::Open;
use super::listener::{Accepted, Stream};
use super::refusal::{DISCARD_BYTES, DISCARD_TIME, Refusal, linger};
use super::request_body::RequestBody;
use super::service::{EdgeService, MakeEdgeService};
use super::socket::ClientSocket;
use super::state::{ConnectionState, Phase};

/// What hyper may hold of an answer that waits to be written.
const BUFFER_BYTES: usize = 64 * 1024;

/// What is read of a new connection before hyper is asked; most heads are shorter.
const FIRST_BYTES: usize = 2048;

type Http<S> = http1::Connection<TokioIo<ClientSocket<Stream>>, EdgeService<S>>;

/// What one connection may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header: Duration,
    pub(super) keep_alive: Duration,
    pub(super) total: Option<Duration>,
    pub(super) write_stall: Option<Duration>,
    pub(super) head_bytes: usize,
    pub(super) head_fields: usize,
}

/// How a connection is asked to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Closing {
    /// After the request under way.
    pub(super) soon: CancellationToken,
    /// At once. Looked at only when `soon` is over.
    pub(super) now: CancellationToken,
}

/// Serves a connection to its end. `open` keeps it in the gauge until then.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps each argument twice, and all connections that never speak would"
)]
pub(super) fn serve<S, B>(
    accepted: Accepted,
    services: Arc<MakeEdgeService<S>>,
    limits: Arc<Limits>,
    closing: Closing,
    open: Open,
) -> impl Future<Output = ()>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    async move {
        let _open = &open;
        // hyper's buffers are for connections that have something to say.
        let first = tokio::time::timeout(limits.header, first_bytes(&accepted.stream));
        let first = closing.soon.run_until_cancelled(first).await;
        if let Some(Ok(Ok(first))) = first
            && !first.is_empty()
        {
            // In a box, so that the others take none of its memory either.
            let service = services.make(accepted.peer, accepted.on_loopback);
            let socket = ClientSocket::new(
                accepted.stream,
                first,
                limits.write_stall,
                service.state.clone(),
            );
            Box::pin(serve_http(socket, service, *limits, closing)).await;
        }
    }
}

/// Waits for the first bytes of a client, and reads what is there; nothing if it has left.
async fn first_bytes(stream: &Stream) -> io::Result<BytesMut> {
    loop {
        // tokio takes a new socket for readable until a read has failed.
        match stream {
            Either::Left(stream) => stream.readable().await?,
            Either::Right(stream) => stream.readable().await?,
        }
        match read(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

fn read(stream: &Stream) -> io::Result<BytesMut> {
    let mut bytes = [0; FIRST_BYTES];
    let length = match stream {
        Either::Left(stream) => stream.try_read(&mut bytes)?,
        Either::Right(stream) => stream.try_read(&mut bytes)?,
    };
    Ok(BytesMut::from(&bytes[..length]))
}

async fn serve_http<S, B>(
    socket: ClientSocket<Stream>,
    service: EdgeService<S>,
    limits: Limits,
    closing: Closing,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let state = service.state.clone();
    let mut connection = Connection {
        http: http1::Builder::new()
            // hyper has one clock for the head and the pause before it, and answers nothing when it
            // runs out; the two are kept apart here.
            .header_read_timeout(None)
            .max_buf_size(limits.head_bytes.max(BUFFER_BYTES))
            .max_header_size(limits.head_bytes)
            .max_headers(limits.head_fields)
            .half_close(false)
            // What came together of a stream leaves in one write.
            .writev(false)
            .serve_connection(TokioIo::new(socket), service),
        state: state.clone(),
        waker: Waker::from(state.clone()),
        limits,
        closing: Some(Box::pin(closing.soon.cancelled_owned())),
        ended: Box::pin(closing.now.cancelled_owned()),
        past_upgrade: false,
        left: None,
        clock: Deadline::default(),
        timed: None,
    };
    let end = poll_fn(|cx| connection.poll(cx)).await;
    match &end {
        End::Closed(Ok(())) => tracing::trace!("connection closed"),
        End::Closed(Err(error)) => tracing::debug!(%error, "connection failed"),
        End::Clock(phase) => tracing::debug!(?phase, "connection timed out"),
        End::Now => return,
    }
    let http1::Parts {
        io,
        read_buf,
        service,
        ..
    } = connection.http.into_parts();
    let stream = io.into_inner().into_inner();
    if let Some(refusal) = end.refusal(&state) {
        state.gauges.refused_heads.fetch_add(1, Relaxed);
        let dialect = service.rules.refuse_head(refusal, &read_buf, service.peer);
        return refusal.tell(stream, dialect).await;
    }
    if state.is_http_10() && end.cuts_an_answer() {
        return reset(&stream);
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

    /// What the client is told that is not told by an answer.
    fn refusal(&self, state: &ConnectionState) -> Option<Refusal> {
        match self {
            Self::Clock(Phase::Head) if state.take_read() > 0 => Some(Refusal::HeadTimeout),
            Self::Closed(Err(error))
                if state.has_refused() || (error.is_parse_version_h2() && state.is_flushed()) =>
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

struct Connection<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    http: Http<S>,
    state: Arc<ConnectionState>,
    /// The state's, for hyper.
    waker: Waker,
    limits: Limits,
    /// `None` once it is over.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    past_upgrade: bool,
    left: Option<Left>,
    clock: Deadline,
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
        self.state.begin_turn(cx.waker());
        if self.poll_closing(cx).is_ready() {
            return Poll::Ready(End::Now);
        }
        if let Poll::Ready(result) = self.poll_http() {
            return Poll::Ready(End::Closed(result));
        }
        self.poll_left(cx);
        self.poll_clock(cx).map(End::Clock)
    }

    /// Ready when the connection is to end at once.
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
            self.clock.arm_after(self.limits.of(phase));
        }
        while self.clock.poll(cx).is_ready() {
            if phase == Phase::Exchange || !self.state.has_write_pending() {
                return Poll::Ready(phase);
            }
            // The answer is on its way still; the socket's own clock watches it.
            self.clock.arm_after(self.limits.of(phase));
        }
        Poll::Pending
    }

    /// Reads and discards what a request left unread, within bounds.
    fn poll_left(&mut self, cx: &mut Context<'_>) {
        if let Some(body) = self.state.take_left() {
            let mut clock = Deadline::default();
            clock.arm_after(Some(DISCARD_TIME));
            self.left = Some(Left {
                body,
                bytes: 0,
                clock,
            });
        }
        let Some(left) = &mut self.left else { return };
        if let Poll::Ready(ended) = left.poll(&self.state, cx) {
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

/// A body that is not read by the stack.
struct Left {
    body: Incoming,
    bytes: usize,
    clock: Deadline,
}

impl Left {
    /// Ready with whether the body came to its end.
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

/// Closes a socket so that its client sees that something is missing. An answer of HTTP/1.0 may
/// end with the connection, and a close would pass for that.
fn reset(stream: &Stream) {
    let now = Some(Duration::ZERO);
    // If the system refuses, a plain close is all there is.
    let _ = match stream {
        Either::Left(stream) => SockRef::from(stream).set_linger(now),
        Either::Right(stream) => SockRef::from(stream).set_linger(now),
    };
}
