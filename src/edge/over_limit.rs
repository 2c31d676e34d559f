//! A connection beyond the limit: it is refused, unless it is a probe of `/health`.
//!
//! Many clients are no reason to take the process for dead. With TLS only the handshake shows what a client
//! wants. HTTP/2 is not offered then, because such a connection gets one response.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use llamatower_edge::SocketState;
use tokio::time::{Instant, timeout_at};

use super::address::PeerAddr;
use super::begin::{opening, socket};
use super::connection::{Closing, Limits, serve_http};
use super::listener::{Accepted, Stream};
use super::refusal::Refusal;
use super::service::MakeEdgeService;
use super::socket::EdgeSocket;
use super::stack::HttpStack;
use super::tls::{self, Offer, TlsClient};
use super::transport::Transport;

/// How long a client may take to send its first bytes.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How long a client may take for the handshake and the first bytes of its request.
const TLS_WAIT: Duration = Duration::from_secs(2);

/// Answers a connection with 503 for its first request, or, if that is a probe of `/health`, as usual.
pub(super) async fn refuse<S: HttpStack>(
    mut accepted: Accepted,
    services: Arc<MakeEdgeService<S>>,
    limits: Arc<Limits>,
    closing: Closing,
) {
    let wait = match accepted.is_tls {
        true => TLS_WAIT,
        false => FIRST_WAIT,
    };
    let deadline = Instant::now() + wait;
    let first = opening(&mut accepted, services.proxy_headers.as_ref());
    let first = timeout_at(deadline, first).await;
    let peer = accepted.peer;
    let begun = match first.unwrap_or_else(|_| Ok(BytesMut::new())) {
        // The client has gone, or the header of its proxy is missing.
        Err(_) => None,
        Ok(first) if accepted.is_tls => {
            let begun = Begun::with_tls(
                peer,
                accepted.stream,
                first,
                &services,
                deadline,
                &limits,
                &closing,
            );
            begun.await
        }
        Ok(first) => Some(Begun::plain(accepted.stream, first, &limits)),
    };
    let begun = match begun {
        Some(begun) if services.rules().asks_for_health(&begun.head) => {
            let service = services.make(peer, accepted.on_loopback, begun.client, begun.state);
            // Nothing after the probe is read, so the connection closes.
            service.state.set_unread(true);
            let socket = EdgeSocket::new(begun.transport, service.state.clone());
            let head_deadline = Some(deadline);
            return Box::pin(serve_http(socket, service, *limits, closing, head_deadline)).await;
        }
        begun => begun,
    };
    services.gauges().refused_connections.fetch_add(1, Relaxed);
    let refusal = Refusal::TooManyConnections;
    let head = begun.as_ref().map_or(&b""[..], |begun| &begun.head);
    let dialect = services.rules().refuse_head(refusal, head, peer);
    if let Some(begun) = begun {
        refusal.send(begun.transport, dialect).await;
    }
}

/// A connection whose first request has begun.
struct Begun {
    transport: Transport,
    state: SocketState,
    /// `None` without TLS.
    client: Option<Arc<TlsClient>>,
    /// The first bytes of the request. The transport returns them too.
    head: BytesMut,
}

impl Begun {
    fn plain(stream: Stream, head: BytesMut, limits: &Limits) -> Self {
        let (socket, state) = socket(stream, head.clone(), limits);
        Self {
            transport: Transport::Plain(socket),
            state,
            client: None,
            head,
        }
    }

    /// `None` if there is no handshake.
    async fn with_tls<S>(
        peer: PeerAddr,
        stream: Stream,
        first: BytesMut,
        services: &MakeEdgeService<S>,
        deadline: Instant,
        limits: &Limits,
        closing: &Closing,
    ) -> Option<Self> {
        if !tls::begins_handshake(&first) {
            return None;
        }
        let server = services.tls()?;
        let (socket, state) = socket(stream, first, limits);
        let (graceful, of) = (&closing.graceful, (peer, services.gauges()));
        let secured = tls::handshake(socket, server, Offer::Http1, deadline, graceful, of);
        let mut secured = Box::pin(secured).await?;
        let head = timeout_at(deadline, secured.peek()).await;
        Some(Self {
            head: head.ok().and_then(Result::ok).unwrap_or_default(),
            transport: Transport::Tls(secured.stream),
            state,
            client: Some(Arc::new(secured.client)),
        })
    }
}
