//! The upstream leaf: HTTP/1.1 to one backend, with the connection polled where its answer is read.
//!
//! A pooled client drives each connection in a task of its own, so every frame of a stream
//! crosses from that task to the client's and leaves in a write of its own. Here the connection
//! is polled inside the future of the request and then inside the body of the answer, by the
//! task that serves the client: frames that are ready together leave together, and dropping the
//! body closes the connection, which is how Ollama learns that its client has gone.
//!
//! ```text
//! call ─ checkout or connect ─ head sent ── head back ─ body ── end ─ back to the pool
//!        └──────── polled by the future ─────────┘└─ by the body ─┘
//! ```
//!
//! ```no_run
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Empty};
//! use llamatower::ollama::upstream::{Address, Upstream};
//! use tower::ServiceExt;
//!
//! # async fn run() -> Result<(), llamatower_layers::BoxError> {
//! let address: Address = "http://localhost:11434".parse()?;
//! let upstream = Upstream::new(address);
//! let request = http::Request::get("/api/version").body(Empty::<Bytes>::new())?;
//! let answer = upstream.oneshot(request).await?;
//! println!("{:?}", answer.into_body().collect().await?.to_bytes());
//! # Ok(())
//! # }
//! ```

mod address;
mod body;
mod connect;
mod error;
mod link;
mod pool;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body;
use llamatower_layers::{BoxError, Failure};
use tower::Service;

pub use address::{Address, InvalidAddress};
pub use body::UpstreamBody;
pub use connect::Connector;
pub use error::{AnswerBroken, ConnectFailed, ConnectTimeout, ConnectionLost, InvalidAnswer};
pub use pool::PoolLimits;

use link::Link;
use pool::Pool;

/// A client of one backend, as a service.
///
/// The request's path goes out as it is and its `Host` becomes the backend's own authority;
/// everything else about headers is the caller's to decide.
#[derive(Debug)]
pub struct Upstream<B: Body + 'static> {
    shared: Arc<Shared<B>>,
}

#[derive(Debug)]
struct Shared<B: Body + 'static> {
    address: Address,
    connector: Connector,
    pool: Arc<Pool<B>>,
}

impl<B: Body + 'static> Clone for Upstream<B> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<B: Body + 'static> Upstream<B> {
    /// A client with the default limits: two seconds to connect, 128 idle connections that are
    /// kept for 90 seconds.
    pub fn new(address: Address) -> Self {
        Self::with_limits(address, Duration::from_secs(2), PoolLimits::default())
    }

    /// A client with limits of its own; `connect_timeout` covers name resolution too.
    pub fn with_limits(address: Address, connect_timeout: Duration, limits: PoolLimits) -> Self {
        Self {
            shared: Arc::new(Shared {
                connector: Connector::new(address.clone(), connect_timeout),
                pool: Arc::new(Pool::new(address.clone(), limits)),
                address,
            }),
        }
    }

    /// Where the backend is.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// How many connections wait in the pool.
    pub fn idle_connections(&self) -> usize {
        self.shared.pool.len()
    }
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Closes idle connections that are too old or that the backend has closed. Nobody polls an
    /// idle connection, so somebody should call this now and then.
    pub fn prune(&self) {
        self.shared.pool.prune();
    }
}

impl<B> Service<Request<B>> for Upstream<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<UpstreamBody<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { shared.exchange(request).await })
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn exchange(
        &self,
        mut request: Request<B>,
    ) -> Result<Response<UpstreamBody<B>>, BoxError> {
        *request.version_mut() = Version::HTTP_11;
        let authority = self.address.authority_header();
        request.headers_mut().insert(HOST, authority);
        loop {
            let (link, reused) = match self.pool.check_out() {
                Some(link) => (link, true),
                None => (self.connect().await?, false),
            };
            match link.send(request).await {
                Ok((answer, link)) => return self.accept(answer, link),
                Err(failed) => match failed.unsent {
                    Some(unsent) if reused => request = *unsent,
                    _ => return Err(self.lost(failed.error, reused)),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Link<B>, BoxError> {
        let stream = self.connector.connect().await?;
        Link::open(stream)
            .await
            .map_err(|error| self.lost(error, false))
    }

    fn accept(
        &self,
        answer: Response<hyper::body::Incoming>,
        link: Link<B>,
    ) -> Result<Response<UpstreamBody<B>>, BoxError> {
        if let Some(reason) = not_acceptable(answer.status(), answer.headers()) {
            return Err(Failure::from(InvalidAnswer::new(&self.address, reason)).into());
        }
        Ok(answer.map(|incoming| UpstreamBody::new(incoming, link, self.pool.clone())))
    }

    /// A backend that was restarted closes all its connections, so one that was found dead
    /// condemns the idle ones, and the next attempt gets a fresh one.
    fn lost(&self, error: hyper::Error, reused: bool) -> BoxError {
        if reused {
            self.pool.clear();
        }
        if error.is_parse() {
            return Failure::from(InvalidAnswer::new(&self.address, "not an HTTP answer")).into();
        }
        if error.is_user() {
            return client_body_failure(error);
        }
        Failure::from(ConnectionLost::new(&self.address, reused, error)).into()
    }
}

/// Framing that two readers could understand differently (RFC 9112 6.3) is not passed on.
fn not_acceptable(status: StatusCode, headers: &HeaderMap) -> Option<&'static str> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Some("it switched protocols without being asked");
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Some("it has both Transfer-Encoding and Content-Length");
    }
    None
}

/// The request's own body failed: whoever made that body knows what it means.
fn client_body_failure(error: hyper::Error) -> BoxError {
    Box::new(error)
}
