//! One connection: hyper's two halves, polled together.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use llamatower_layers::BoxError;
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use super::Connector;
use super::socket::BackendSocket;
use super::state::ConnectionState;

/// What one answer's head may take; Ollama's heads are a few hundred bytes.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;

/// What hyper may read at once of an answer, and hold of a request.
const BUFFER_BYTES: usize = 64 * 1024;

/// A connection and the sender of its requests, owned by one request at a time. In a box, as it is
/// some thousand bytes and moves through every layer with the body of its answer.
pub(super) struct Connection<B: Body + 'static>(Box<Halves<B>>);

struct Halves<B: Body + 'static> {
    sender: SendRequest<B>,
    /// `None` once it has ended. hyper gives a request that it has not begun back when this is dropped.
    http: Option<http1::Connection<TokioIo<BackendSocket>, B>>,
    is_last: bool,
    waker: Waker,
    state: Arc<ConnectionState>,
}

/// A request that got no answer.
pub(super) struct SendFailed<B> {
    pub(super) error: hyper::Error,
    /// The request, if it was not begun.
    pub(super) unsent: Option<Box<Request<B>>>,
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) async fn open(
        stream: TcpStream,
        connector: Connector,
    ) -> Result<Self, hyper::Error> {
        let state = ConnectionState::new();
        let socket = BackendSocket::new(stream, connector, state.clone());
        let (sender, http) = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(socket))
            .await?;
        Ok(Self(Box::new(Halves {
            sender,
            http: Some(http),
            is_last: false,
            waker: Waker::from(state.clone()),
            state,
        })))
    }

    /// Sends a request and waits for the head of its answer. The rest of the request's body
    /// goes out while the answer's is read.
    pub(super) async fn send(
        &mut self,
        request: Request<B>,
        is_reused: bool,
    ) -> Result<Response<Incoming>, SendFailed<B>> {
        // Only the connection ends this future, so it needs no waker, and must not be put off for
        // the sake of other tasks.
        let mut answer = pin!(unconstrained(self.0.sender.try_send_request(request)));
        self.0.state.begin(is_reused);
        let answer = poll_fn(|cx| {
            self.advance();
            let answer = answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            if answer.is_pending() {
                self.0.state.wait(cx);
            }
            answer
        });
        answer.await.map_err(|mut failed| SendFailed {
            unsent: failed.take_message().map(Box::new),
            error: failed.into_error(),
        })
    }

    /// Why the connection that was to replace a dead one could not be opened. Then no byte of the
    /// request has left.
    pub(super) fn take_dial_error(&self) -> Option<BoxError> {
        self.0.state.take_dial_error()
    }

    /// The next frame of an answer.
    pub(super) fn poll_frame(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = poll_received(incoming);
        if frame.is_pending() && self.advance() {
            frame = poll_received(incoming);
        }
        if frame.is_pending() {
            self.0.state.wait(cx);
        }
        frame
    }

    /// Moves the connection on if it has work, and returns whether it had.
    fn advance(&mut self) -> bool {
        let halves = &mut *self.0;
        if halves.http.is_none() || !halves.state.take_work() {
            return false;
        }
        halves.poll_http(&mut Context::from_waker(&halves.waker.clone()));
        true
    }

    /// Whether the connection is open and waits for a request. Polled with a waker that does
    /// nothing: a stored one would keep the memory of the task that was here last.
    pub(super) fn is_idle(&mut self) -> bool {
        let halves = &mut *self.0;
        // Whatever budget tokio has left the task: a socket that is not looked at would pass for one with
        // nothing to say.
        let look = pin!(unconstrained(poll_fn(|cx| {
            halves.poll_http(cx);
            Poll::Ready(())
        })));
        let _ = look.poll(&mut Context::from_waker(Waker::noop()));
        halves.http.is_some() && halves.sender.is_ready() && !halves.is_last
    }

    /// Lets no request follow: the server speaks HTTP/1.0, to which hyper would send a body of unknown
    /// length as none.
    pub(super) fn retire(&mut self) {
        self.0.is_last = true;
    }
}

impl<B> Halves<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_http(&mut self, cx: &mut Context<'_>) {
        let Some(http) = &mut self.http else { return };
        // An error reaches the request or the body, whichever waits.
        if Pin::new(http).poll(cx).is_ready() {
            self.http = None;
        }
    }
}

/// What the connection has read already. It alone adds to that, so that no waker is needed.
pub(super) fn poll_received(
    incoming: &mut Incoming,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    Pin::new(incoming).poll_frame(&mut Context::from_waker(Waker::noop()))
}

impl<B: Body + 'static> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("is_ready", &self.0.sender.is_ready())
            .finish_non_exhaustive()
    }
}
