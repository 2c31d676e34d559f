//! Scripted servers on real sockets, with or without TLS.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use llamatower::ollama::upstream::{
    Access, Address, Authorities, PoolLimits, Upstream, UpstreamBody,
};
use llamatower_layers::{BoxError, EndpointTable, Failure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// A short response.
pub(crate) const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// The two kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    Plain,
    Tls,
}

/// Generates a test of each function for each client.
#[macro_export]
macro_rules! for_both_leaves {
    ($($name:ident)*) => {
        mod plain {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::Leaf::Plain).await;
            })*
        }
        mod tls {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::Leaf::Tls).await;
            })*
        }
    };
}

/// A test certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// The trusted authority.
pub(crate) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new(AUTHORITY_NAME));

pub(crate) const AUTHORITY_NAME: &str = "the authority of the tests";

/// Trusts that authority. Loading the system's authorities takes some milliseconds.
pub(crate) static ACCESS: LazyLock<Access> = LazyLock::new(|| AUTHORITY.access());

static ACCEPTOR: LazyLock<TlsAcceptor> = LazyLock::new(|| AUTHORITY.acceptor(&names()));

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// The TLS acceptor of a server with a certificate of this authority.
    pub(crate) fn acceptor(&self, params: &CertificateParams) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(
            rustls::crypto::aws_lc_rs::default_provider().into(),
        )
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key);
        TlsAcceptor::from(Arc::new(config.expect("a certificate and its key")))
    }

    /// Trusts servers of this authority.
    pub(crate) fn access(&self) -> Access {
        access_with(self, vec![])
    }
}

fn access_with(authority: &Authority, tokens: Vec<(Address, &str)>) -> Access {
    let tokens = tokens.into_iter();
    let tokens = tokens.map(|(server, token)| (server, token.parse().expect("a token")));
    let trust = Authorities::from_pem(authority.pem.as_bytes())
        .expect("a certificate")
        .trust();
    Access::new(tokens.collect()).with_trust(trust.expect("an authority"))
}

/// The names in servers' certificates.
pub(crate) fn names() -> CertificateParams {
    let names = ["127.0.0.1", "gpu.example"].map(str::to_owned);
    CertificateParams::new(names).expect("names")
}

/// A server whose responses the test writes.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
}

/// An accepted connection.
pub(crate) struct Peer(Box<dyn Duplex>);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Server {
    pub(crate) async fn start(leaf: Leaf) -> Self {
        let acceptor = (leaf == Leaf::Tls).then(|| ACCEPTOR.clone());
        Self::with(acceptor).await
    }

    pub(crate) async fn with(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self { listener, acceptor }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("it is bound").port()
    }

    /// The server's address.
    pub(crate) fn address(&self) -> Address {
        self.address_under("")
    }

    pub(crate) fn address_under(&self, prefix: &str) -> Address {
        let scheme = if self.acceptor.is_some() {
            "https"
        } else {
            "http"
        };
        let address = format!("{scheme}://127.0.0.1:{}{prefix}", self.port());
        address.parse().expect("an address")
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.expect("a connection");
        Peer(match &self.acceptor {
            None => Box::new(stream),
            Some(acceptor) => Box::new(acceptor.accept(stream).await.expect("a handshake")),
        })
    }

    /// Accepts a connection that the client may abort.
    pub(crate) async fn try_accept(&self) {
        let (stream, _) = self.listener.accept().await.expect("a connection");
        if let Some(acceptor) = &self.acceptor {
            let _ = acceptor.accept(stream).await;
        }
    }

    /// Waits for a connection without accepting it, and returns the listener.
    pub(crate) fn into_listener(self) -> TcpListener {
        self.listener
    }
}

impl Peer {
    /// Reads until `end` arrives, and returns everything.
    pub(crate) async fn read_to(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            let read = self.0.read_buf(&mut seen).await.expect("a request");
            assert_ne!(read, 0, "the client left");
        }
        String::from_utf8(seen).expect("text")
    }

    /// Reads until `end` has arrived, and possibly more.
    pub(crate) async fn read_past(&mut self, end: &str) {
        let mut seen = Vec::new();
        while !seen.windows(end.len()).any(|part| part == end.as_bytes()) {
            let read = self.0.read_buf(&mut seen).await.expect("a request");
            assert_ne!(read, 0, "the client left");
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = self.0.write_all(bytes.as_ref()).await;
        sent.expect("the client reads");
        self.0.flush().await.expect("the client reads");
    }

    /// Like [`send`](Self::send), to a client that may have disconnected.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
        let _ = self.0.flush().await;
    }

    /// Reads one request with two bytes of body and responds.
    pub(crate) async fn answer(&mut self, answer: &str) -> String {
        let request = self.read_to("\r\n\r\n{}").await;
        self.send(answer).await;
        request
    }

    /// Responds to one request, unless the client disconnects.
    pub(crate) async fn try_answer(&mut self, answer: &str) -> bool {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n{}") {
            match self.0.read_buf(&mut seen).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        self.try_send(answer.as_bytes()).await;
        true
    }

    /// Whether the client closes the connection without sending more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]).await, Ok(0) | Err(_))
    }

    /// Closes the sending side, as a server does at the end of a response.
    pub(crate) async fn close(&mut self) {
        let _ = self.0.shutdown().await;
    }
}

pub(crate) type Answer = http::Response<UpstreamBody<Full<Bytes>>>;

/// A server and its client.
pub(crate) async fn pair<B>(leaf: Leaf) -> (Server, Upstream<B>)
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let server = Server::start(leaf).await;
    let upstream = upstream(server.address(), &ACCESS);
    (server, upstream)
}

/// A server with a prefix and a token, and its client.
pub(crate) async fn pair_with_token(leaf: Leaf, token: &str) -> (Server, Upstream<Full<Bytes>>) {
    let server = Server::start(leaf).await;
    let address = server.address_under("/ollama");
    let access = access_with(&AUTHORITY, vec![(address.clone(), token)]);
    (server, upstream(address, &access))
}

pub(crate) fn upstream<B>(address: Address, access: &Access) -> Upstream<B>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let limits = PoolLimits::default();
    Upstream::with_access(address, Duration::from_secs(2), limits, access)
}

pub(crate) fn request() -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from_static(b"{}"));
    Request::post("/api/chat").body(body).expect("a request")
}

/// A request for a route of the table, as the gateway sends it.
pub(crate) fn routed(method: Method, path: &str) -> Request<Full<Bytes>> {
    let mut request = request();
    EndpointTable::ollama()
        .look_up(&method, path)
        .put_into(request.extensions_mut());
    *request.uri_mut() = path.parse().expect("a path");
    *request.method_mut() = method;
    request
}

pub(crate) async fn ask(upstream: &Upstream<Full<Bytes>>) -> Result<Answer, BoxError> {
    upstream.clone().oneshot(request()).await
}

pub(crate) async fn text(answer: Answer) -> Bytes {
    answer
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes()
}

pub(crate) fn cause_of(error: BoxError) -> Failure {
    *error
        .downcast::<Failure>()
        .expect("a failure with a meaning")
}
