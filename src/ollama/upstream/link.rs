//! One connection: hyper's two halves, polled together.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use llamatower_layers::BoxError;
use tokio::net::TcpStream;

/// Bounds what one answer's head may take; Ollama's heads are a few hundred bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// A connection and the sender of its requests, owned by one request at a time. In a box, as it is
/// some thousand bytes and moves through every layer with the body of its answer.
pub(super) struct Link<B: Body + 'static>(Box<Halves<B>>);

struct Halves<B: Body + 'static> {
    sender: SendRequest<B>,
    connection: Connection<TokioIo<TcpStream>, B>,
}

/// A request that got no answer.
pub(super) struct SendFailed<B> {
    pub(super) error: hyper::Error,
    /// The request, if not a byte of it was written.
    pub(super) unsent: Option<Box<Request<B>>>,
}

impl<B> Link<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) async fn open(stream: TcpStream) -> Result<Self, hyper::Error> {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self(Box::new(Halves { sender, connection })))
    }

    /// Sends a request and waits for the head of its answer. The rest of the request's body
    /// goes out while the answer's is read.
    pub(super) async fn send(
        mut self,
        request: Request<B>,
    ) -> Result<(Response<Incoming>, Self), SendFailed<B>> {
        let Halves { sender, connection } = &mut *self.0;
        let mut answer = pin!(sender.try_send_request(request));
        let mut closed = false;
        let answer = poll_fn(|cx| {
            if !closed {
                closed = Pin::new(&mut *connection).poll(cx).is_ready();
            }
            answer.as_mut().poll(cx)
        })
        .await;
        match answer {
            Ok(answer) => Ok((answer, self)),
            Err(mut failed) => Err(SendFailed {
                unsent: failed.take_message().map(Box::new),
                error: failed.into_error(),
            }),
        }
    }

    /// Moves the connection on; ready when it has closed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Pin::new(&mut self.0.connection).poll(cx)
    }

    /// Whether the connection is open and waits for a request. Polled with a waker that does
    /// nothing: a stored one would keep the memory of the task that was here last.
    pub(super) fn is_idle(&mut self) -> bool {
        let open = self
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending();
        open && self.0.sender.is_ready()
    }
}

impl<B: Body + 'static> fmt::Debug for Link<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("ready", &self.0.sender.is_ready())
            .finish_non_exhaustive()
    }
}
