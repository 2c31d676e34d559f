//! The TLS handshake of a connection, and what it tells about the client.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::BytesMut;
use http::request::Parts;
use llamatower_edge::ClientSocket;
use llamatower_layers::OverTls;
use llamatower_layers::api_key::AuthenticatedAs;
use tokio::io::AsyncBufRead;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::address::PeerAddr;
use super::gauges::Gauges;
use super::listener::Stream;
use crate::tls::{HTTP_2, TlsServer};

/// The first byte of a record with the beginning of a handshake (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;

/// What TLS tells about the client of a connection.
#[derive(Clone, Debug)]
pub(super) struct TlsClient {
    /// The name of the key that its certificate stands for.
    name: Option<Arc<str>>,
    /// It has no certificate, but its requests need one.
    pub(super) lacks_certificate: bool,
}

impl TlsClient {
    /// Tells the stack how the request arrived, and from whom.
    pub(super) fn put_into(&self, request: &mut Parts) {
        OverTls.put_into(&mut request.extensions);
        if let Some(name) = &self.name {
            request.extensions.insert(AuthenticatedAs(name.clone()));
        }
    }
}

/// A connection after its handshake.
pub(super) struct Secured {
    pub(super) stream: Box<TlsStream<ClientSocket<Stream>>>,
    pub(super) client: TlsClient,
    pub(super) is_http2: bool,
}

/// Whether these may be the first bytes of a handshake.
pub(super) fn begins_handshake(bytes: &[u8]) -> bool {
    bytes.first() == Some(&HANDSHAKE)
}

/// Which protocols are offered to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Those of the configuration.
    Configured,
    Http1,
}

/// Completes the handshake, until the deadline. `None` if it has failed, or if the connection must be
/// closed.
pub(super) async fn handshake(
    socket: ClientSocket<Stream>,
    server: Arc<TlsServer>,
    offer: Offer,
    deadline: Instant,
    closing: &CancellationToken,
    (peer, gauges): (PeerAddr, &Gauges),
) -> Option<Secured> {
    let config = match offer {
        Offer::Configured => &server.config,
        Offer::Http1 => &server.http1_config,
    };
    let accepted = TlsAcceptor::from(config.clone()).accept(socket);
    let accepted = closing
        .run_until_cancelled(timeout_at(deadline, accepted))
        .await?;
    let accepted = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match accepted {
        Ok(stream) => Some(Secured::new(stream, &server)),
        Err(error) => {
            gauges.failed_handshake(peer, &error);
            None
        }
    }
}

impl Secured {
    fn new(stream: TlsStream<ClientSocket<Stream>>, server: &TlsServer) -> Self {
        let session = stream.get_ref().1;
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        Self {
            client: TlsClient {
                name: certificate.and_then(|it| server.client_names.key_of(it)),
                lacks_certificate: server.needs_certificate && certificate.is_none(),
            },
            is_http2: session.alpn_protocol() == Some(HTTP_2),
            stream: Box::new(stream),
        }
    }

    /// The first bytes of a request. The next read returns them too.
    pub(super) async fn peek(&mut self) -> io::Result<BytesMut> {
        poll_fn(|cx| {
            let bytes = ready!(Pin::new(&mut *self.stream).poll_fill_buf(cx))?;
            Poll::Ready(Ok(bytes.into()))
        })
        .await
    }
}
