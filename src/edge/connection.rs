//! One client connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use llamatower_layers::BoxError;

use super::linger::Linger;
use super::listen::Stream;
use super::phase::{Phase, PhaseWatch};
use super::stall::StallGuard;

/// The most that one connection buffers of a request's head or of an answer.
const MAX_BUFFER: usize = 64 * 1024;

/// The clocks of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionClocks {
    pub(super) head: Duration,
    pub(super) write_stall: Duration,
}

/// Serves `stream` until the client, a clock or the drain ends it.
pub(super) async fn serve<S, B>(
    stream: Stream,
    service: S,
    clocks: ConnectionClocks,
    mut phase: PhaseWatch,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let io = Linger::new(StallGuard::new(stream, clocks.write_stall));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(clocks.head)
        .max_buf_size(MAX_BUFFER)
        .max_header_size(MAX_BUFFER / 2)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let ended = poll_fn(|cx| {
        if let Poll::Ready(phase) = phase.poll_change(cx) {
            if phase >= Phase::Over {
                return Poll::Ready(None);
            }
            if phase >= Phase::Draining {
                connection.as_mut().graceful_shutdown();
            }
        }
        connection.as_mut().poll(cx).map(Some)
    })
    .await;
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a client connection ended"),
        None => tracing::debug!("a client connection was cut off by the drain"),
    }
}
