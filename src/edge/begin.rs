//! The beginning of a connection: its first bytes, TLS, and the choice of the protocol.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::BytesMut;
use llamatower_edge::{ClientSocket, SocketState};
use llamatower_layers::Dialect;
use tokio::time::{Instant, timeout_at};
use tokio_util::either::Either;

use super::connection::{Closing, Limits, serve_http};
use super::gauges::Open;
use super::http2;
use super::listener::{Accepted, Stream};
use super::partial_head;
use super::proxy_protocol::ProxyHeaders;
use super::refusal::Refusal;
use super::service::{EdgeService, MakeEdgeService};
use super::socket::EdgeSocket;
use super::stack::HttpStack;
use super::tls::{self, Offer, Secured};
use super::transport::Transport;

/// Size of the first read on a new connection, before hyper is created. Most heads are shorter.
pub(super) const FIRST_BYTES: usize = 2048;

/// Serves a connection until it ends. `open` counts it as open until then.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn stores each argument twice, also for every idle connection"
)]
pub(super) fn serve<S: HttpStack>(
    mut accepted: Accepted,
    services: Arc<MakeEdgeService<S>>,
    limits: Arc<Limits>,
    closing: Closing,
    open: Open,
) -> impl Future<Output = ()> {
    async move {
        let _open = &open;
        let deadline = Instant::now() + limits.header;
        // hyper's buffers are allocated only once the client has sent something.
        let first = opening(&mut accepted, services.proxy_headers.as_ref());
        // A box of its own, which is freed with the first bytes.
        let first = Box::pin(timeout_at(deadline, first));
        let first = closing.graceful.run_until_cancelled(first).await;
        if let Some(Ok(Ok(mut first))) = first
            && !first.is_empty()
        {
            // Boxed, so that idle connections do not reserve their memory.
            if accepted.is_tls {
                // A box of its own, which is freed after the handshake.
                let secured = begin_tls(accepted, first, &services, deadline, &limits, &closing);
                let Some((transport, service, is_http2)) = Box::pin(secured).await else {
                    return;
                };
                return serve_in(is_http2, transport, service, &limits, closing, None).await;
            }
            let mut head_deadline = None;
            if partial_head::is_partial(&first) {
                let deadline = Instant::now() + limits.header;
                let rest = partial_head::complete(
                    &mut accepted,
                    &mut first,
                    &services,
                    deadline,
                    &closing.now,
                );
                if Box::pin(rest).await.is_none() {
                    return;
                }
                head_deadline = Some(deadline);
            }
            let is_http2 = limits.plain_http2 && http2::begins_preface(&first);
            let (socket, state) = socket(accepted.stream, first, &limits);
            let socket = Transport::Plain(socket);
            let service = services.make(accepted.peer, accepted.on_loopback, None, state);
            serve_in(is_http2, socket, service, &limits, closing, head_deadline).await;
        }
    }
}

/// Serves a connection in HTTP/2 or HTTP/1.1 until it ends.
fn serve_in<S: HttpStack>(
    is_http2: bool,
    transport: Transport,
    service: EdgeService<S>,
    limits: &Limits,
    closing: Closing,
    head_deadline: Option<Instant>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    if is_http2 {
        return Box::pin(http2::serve(transport, service, *limits, closing));
    }
    let socket = EdgeSocket::new(transport, service.state.clone());
    Box::pin(serve_http(socket, service, *limits, closing, head_deadline))
}

/// The client's socket, with the bytes that were read already.
pub(super) fn socket(
    stream: Stream,
    first: BytesMut,
    limits: &Limits,
) -> (ClientSocket<Stream>, SocketState) {
    let socket = ClientSocket::new(stream, limits.write_stall).with_buffered(first);
    let state = socket.state().clone();
    (socket, state)
}

/// Begins a connection on a port that speaks TLS: what is served on it, and whether it is in HTTP/2. `None` if
/// it has ended.
async fn begin_tls<S: Clone>(
    accepted: Accepted,
    first: BytesMut,
    services: &MakeEdgeService<S>,
    deadline: Instant,
    limits: &Limits,
    closing: &Closing,
) -> Option<(Transport, EdgeService<S>, bool)> {
    let Accepted {
        stream,
        peer,
        on_loopback,
        ..
    } = accepted;
    let gauges = services.gauges();
    if !tls::begins_handshake(&first) {
        gauges.refused_heads.fetch_add(1, Relaxed);
        services
            .rules()
            .refuse_head(Refusal::PlainHttp, &first, peer);
        Refusal::PlainHttp.send(stream, Dialect::Text).await;
        return None;
    }
    let server = services.tls()?;
    let (socket, state) = socket(stream, first, limits);
    let (offer, graceful) = (Offer::Configured, &closing.graceful);
    let Secured {
        stream,
        client,
        is_http2,
    } = tls::handshake(socket, server, offer, deadline, graceful, (peer, gauges)).await?;
    let service = services.make(peer, on_loopback, Some(Arc::new(client)), state);
    Some((Transport::Tls(stream), service, is_http2))
}

/// Waits for the client's first bytes and returns them. If the listener requires the header of a proxy, it
/// comes before them, and its client becomes the peer. Nothing else is read of the stream before it.
pub(super) async fn opening(
    accepted: &mut Accepted,
    proxy_headers: Option<&ProxyHeaders>,
) -> io::Result<BytesMut> {
    if let Some(proxy_headers) = proxy_headers {
        // Boxed, so that it takes no memory where there are no such headers.
        let header = Box::pin(proxy_headers.read(&accepted.stream, accepted.peer));
        let (client, rest) = header.await?;
        accepted.peer = client;
        if !rest.is_empty() {
            return Ok(rest);
        }
    }
    first_bytes(&accepted.stream).await
}

/// Waits until a socket has something to read.
pub(super) async fn readable(stream: &Stream) -> io::Result<()> {
    match stream {
        Either::Left(stream) => stream.readable().await,
        Either::Right(stream) => stream.readable().await,
    }
}

/// Waits for the client's first bytes and returns them; empty if the client has disconnected.
pub(super) async fn first_bytes(stream: &Stream) -> io::Result<BytesMut> {
    loop {
        // tokio reports a new socket as readable until a read has failed.
        readable(stream).await?;
        match read(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Reads what a socket has; empty at its end.
pub(super) fn read(stream: &Stream) -> io::Result<BytesMut> {
    let mut bytes = [0; FIRST_BYTES];
    let length = match stream {
        Either::Left(stream) => stream.try_read(&mut bytes)?,
        Either::Right(stream) => stream.try_read(&mut bytes)?,
    };
    Ok(BytesMut::from(&bytes[..length]))
}
