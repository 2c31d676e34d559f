//! The HTTP/1.1 client of one backend.
//!
//! There are two clients behind one type: one for plain HTTP, which is the hot path, and one for
//! TLS, which is reqwest. Both prepare requests and check responses in the same way.
//!
//! A usual pooled client drives each connection in its own task, which costs a task switch and a
//! write for each frame. The plain client polls hyper's connection inside the request's future and
//! then inside the response's body, in the task that serves the client. Frames that are ready
//! together are written together. Dropping the body closes the connection, which tells Ollama that
//! its client has disconnected.
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

mod access;
mod address;
mod body;
mod connect;
mod connection;
mod error;
mod hop;
mod plain;
mod pool;
mod socket;
mod state;
mod timer;
mod tls;
mod trust;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use llamatower_layers::BoxError;
use tower::Service;

pub use access::{Access, Authorization};
pub use address::{Address, InvalidAddress, ServerKind, has_user};
pub use body::UpstreamBody;
pub use connect::Connector;
pub use error::{AnswerBroken, ConnectFailed, ConnectTimeout, ConnectionLost, InvalidAnswer};
pub use pool::{PoolLimits, PoolStatus};
pub use trust::{Authorities, Trust};

use hop::Target;
use plain::Plain;
use tls::Tls;

type ResponseFuture<B> =
    Pin<Box<dyn Future<Output = Result<Response<UpstreamBody<B>>, BoxError>> + Send>>;

/// A request as it is sent. Its body is boxed, because hyper moves a request a dozen times.
type Outgoing<B> = Request<Pin<Box<B>>>;

/// What both clients implement, in addition to the common [`Target`].
trait Leaf<B>: Send + Sync + 'static
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The common part of its requests.
    fn target(&self) -> &Target;

    /// Sends a prepared request, and waits for the head of its response. The future notes how long
    /// that took ([`AttemptTimer`](timer::AttemptTimer)).
    fn ask(
        self: Arc<Self>,
        request: Outgoing<B>,
    ) -> impl Future<Output = Result<Response<UpstreamBody<B>>, BoxError>> + Send;

    /// The number of idle connections in the pool; `None` if it is not known.
    fn idle_connections(&self) -> Option<usize>;

    /// The number of idle connections that the backend has closed; `None` if it is not known.
    fn closed_by_backend(&self) -> Option<u64>;

    /// Closes idle connections that cannot be used again.
    fn prune(&self);
}

/// A client of one backend, as a service. `B` is the body of its requests.
///
/// The request's path is sent unchanged, after the backend's prefix. `Host` becomes the backend's
/// own authority, and `Authorization` the backend's token, if there is one. All other headers are
/// set by the caller. A request whose route forbids sending it twice
/// ([`Operation::is_replayable`](llamatower_layers::Operation::is_replayable)) gets a new
/// connection. Over plain HTTP, a callback of [`hyper::ext::on_informational`] in the request's
/// extensions receives `100 Continue`. The times of a request with a [`Record`](llamatower_layers::Record) are noted there.
#[derive(Debug)]
pub struct Upstream<B: Body + 'static>(Either<B>);

#[derive(Debug)]
enum Either<B: Body + 'static> {
    Plain(Arc<Plain<B>>),
    Tls(Arc<Tls>),
}

impl<B: Body + 'static> Clone for Upstream<B> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Either::Plain(leaf) => Either::Plain(leaf.clone()),
            Either::Tls(leaf) => Either::Tls(leaf.clone()),
        })
    }
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// A client with the default limits: 2 s to connect, 128 idle connections, each kept for 90 s.
    /// It trusts no `https` server; see [`with_access`](Self::with_access).
    pub fn new(address: Address) -> Self {
        Self::with_access(
            address,
            Duration::from_secs(2),
            PoolLimits::default(),
            &Access::default(),
        )
    }

    /// A client with the given limits; `connect_timeout` includes name resolution.
    pub fn with_access(
        address: Address,
        connect_timeout: Duration,
        limits: PoolLimits,
        access: &Access,
    ) -> Self {
        let is_https = address.is_https();
        let target = Target::new(address, access);
        Self(match is_https {
            false => Either::Plain(Arc::new(Plain::new(target, connect_timeout, limits))),
            true => Either::Tls(Arc::new(Tls::new(target, connect_timeout, limits, access))),
        })
    }

    /// The backend's address.
    pub fn address(&self) -> &Address {
        &self.target().address
    }

    fn target(&self) -> &Target {
        match &self.0 {
            Either::Plain(leaf) => leaf.target(),
            Either::Tls(leaf) => Leaf::<B>::target(&**leaf),
        }
    }

    /// The number of idle connections in the pool; `None` over TLS, where they are not counted.
    pub fn idle_connections(&self) -> Option<usize> {
        match &self.0 {
            Either::Plain(leaf) => leaf.idle_connections(),
            Either::Tls(leaf) => Leaf::<B>::idle_connections(&**leaf),
        }
    }

    /// The number of idle connections that the backend has closed so far, as far as it was noticed;
    /// `None` over TLS, where it is not known.
    pub fn closed_by_backend(&self) -> Option<u64> {
        match &self.0 {
            Either::Plain(leaf) => leaf.closed_by_backend(),
            Either::Tls(leaf) => Leaf::<B>::closed_by_backend(&**leaf),
        }
    }

    /// A function that returns the state of the pool as long as the client is in use; `None` over
    /// TLS, where it is not known.
    pub fn watch_pool(
        &self,
    ) -> Option<Box<dyn Fn() -> Option<PoolStatus> + Send + Sync + 'static>> {
        let Either::Plain(leaf) = &self.0 else {
            return None;
        };
        let leaf = Arc::downgrade(leaf);
        Some(Box::new(move || {
            let leaf = leaf.upgrade()?;
            Some(PoolStatus {
                idle: leaf.idle_connections()?,
                closed_by_backend: leaf.closed_by_backend()?,
            })
        }))
    }

    /// Closes idle connections that are too old or that the backend has closed. No task polls idle
    /// plain-HTTP connections, so the owner should call this regularly.
    pub fn prune(&self) {
        match &self.0 {
            Either::Plain(leaf) => leaf.prune(),
            Either::Tls(leaf) => Leaf::<B>::prune(&**leaf),
        }
    }
}

impl<B> Service<Request<B>> for Upstream<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<UpstreamBody<B>>;
    type Error = BoxError;
    type Future = ResponseFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture<B> {
        self.target().prepare(&mut request);
        let request = request.map(Box::pin);
        match &self.0 {
            Either::Plain(leaf) => Box::pin(leaf.clone().ask(request)),
            Either::Tls(leaf) => Box::pin(leaf.clone().ask(request)),
        }
    }
}
