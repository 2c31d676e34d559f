//! One connection: hyper's sender and connection, polled in one task.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use llamatower_layers::BoxError;
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use super::socket::BackendSocket;
use super::state::ConnectionState;
use super::{Connector, Outgoing};

/// Limit of a response's head. Ollama's heads are a few hundred bytes.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Size of hyper's read buffer, and of its buffer for a request. It has to hold a head. A client
/// that reads slowly holds it, so a larger one would be paid for by each of them.
const BUFFER_BYTES: usize = MAX_HEAD_BYTES;

/// A connection and its request sender, owned by one request at a time. Boxed, because it has
/// several thousand bytes and moves through every layer with the response body.
pub(super) struct Connection<B: Body + 'static>(Box<Halves<B>>);

struct Halves<B: Body + 'static> {
    sender: SendRequest<Pin<Box<B>>>,
    /// `None` once it has ended. When it is dropped, hyper returns a request that it has not
    /// started.
    http: Option<http1::Connection<TokioIo<BackendSocket>, Pin<Box<B>>>>,
    is_last: bool,
    waker: Waker,
    state: Arc<ConnectionState>,
}

/// A request that got no response.
pub(super) struct SendFailed<B> {
    pub(super) error: hyper::Error,
    /// The request, if sending was not started.
    pub(super) unsent: Option<Box<Outgoing<B>>>,
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

    /// Sends a request and waits for the head of its response. The rest of the request's body is
    /// sent while the response is read.
    pub(super) fn send(
        &mut self,
        request: Outgoing<B>,
        is_reused: bool,
    ) -> impl Future<Output = Result<Response<Incoming>, SendFailed<B>>> {
        // Given to hyper here, because the future would hold the request twice.
        let answer = self.0.sender.try_send_request(request);
        self.0.state.begin(is_reused);
        async move {
            // Only the connection completes this future, so it needs no waker. It must not yield
            // to other tasks because of tokio's budget.
            let mut answer = pin!(unconstrained(answer));
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
    }

    /// The error of dialing a replacement for a dead connection. In this case no byte of the
    /// request was sent.
    pub(super) fn take_dial_error(&self) -> Option<BoxError> {
        self.0.state.take_dial_error()
    }

    /// The next frame of a response.
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

    /// Polls the connection if it has work, and returns whether it had.
    fn advance(&mut self) -> bool {
        let halves = &mut *self.0;
        if halves.http.is_none() || !halves.state.take_work() {
            return false;
        }
        halves.poll_http(&mut Context::from_waker(&halves.waker.clone()));
        true
    }

    /// Ends a request: whether the connection is open and waits for another one.
    pub(super) fn rest(&mut self) -> bool {
        self.0.state.rest();
        self.is_idle()
    }

    /// Whether the connection is open and waits for a request. Polled only if something has happened
    /// since the last time.
    pub(super) fn is_idle(&mut self) -> bool {
        let halves = &mut *self.0;
        if halves.state.take_work() {
            let waker = halves.waker.clone();
            // Unconstrained, because with tokio's budget used up, a closed socket would look like an
            // idle one.
            let look = pin!(unconstrained(poll_fn(|cx| {
                halves.poll_http(cx);
                Poll::Ready(())
            })));
            let _ = look.poll(&mut Context::from_waker(&waker));
        }
        halves.http.is_some() && halves.sender.is_ready() && !halves.is_last
    }

    /// Prevents reuse. The server speaks HTTP/1.0, and hyper would send it a body of unknown length
    /// as an empty one.
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

/// Data that the connection has already read. Only the connection adds to it, so no waker is
/// needed.
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
