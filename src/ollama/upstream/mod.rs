//! The upstream leaf: HTTP/1.1 to one backend.
//!
//! There are two, behind one type: one for plain HTTP, which is the hot path, and one for TLS, which is
//! reqwest. What a request is made to say, and which answers are refused, is the same for both.
//!
//! A pooled client would drive each connection in a task of its own, at the price of a task switch and a
//! write for each frame. The plain leaf polls hyper's connection inside the future of the request and then
//! inside the body of the answer, in the task that serves the client: frames that are ready together leave
//! together, and dropping the body closes the connection, which is how Ollama learns that its client has
//! gone.
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
pub use address::{Address, InvalidAddress, has_user};
pub use body::UpstreamBody;
pub use connect::Connector;
pub use error::{AnswerBroken, ConnectFailed, ConnectTimeout, ConnectionLost, InvalidAnswer};
pub use pool::PoolLimits;
pub use trust::{Authorities, Trust};

use hop::Target;
use plain::Plain;
use tls::Tls;

type Asking<B> = Pin<Box<dyn Future<Output = Result<Response<UpstreamBody<B>>, BoxError>> + Send>>;

/// What a leaf does, beside what [`Target`] does for each.
trait Leaf<B>: Send + Sync + 'static
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// What its requests have in common.
    fn target(&self) -> &Target;

    /// Sends a request that is prepared, and waits for the head of its answer.
    fn ask(
        self: Arc<Self>,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<UpstreamBody<B>>, BoxError>> + Send;

    /// How many connections wait in its pool, if it knows.
    fn idle_connections(&self) -> Option<usize>;

    /// Closes connections in its pool that cannot be used again.
    fn prune(&self);
}

/// A client of one backend, as a service. `B` is the body of its requests.
///
/// The request's path goes out as it is, after the backend's prefix; its `Host` becomes the
/// backend's own authority, and `Authorization` the backend's token if there is one. Everything
/// else about headers is the caller's to decide. A request whose route says that it must not be sent
/// twice ([`Operation::is_replayable`](llamatower_layers::Operation::is_replayable)) gets a new
/// connection. Over plain HTTP a request whose extensions have a
/// callback of [`hyper::ext::on_informational`] learns of `100 Continue`.
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
    /// A client with the default limits: two seconds to connect, 128 idle connections that are
    /// kept for 90 seconds. It trusts no `https` server; see [`with_access`](Self::with_access).
    pub fn new(address: Address) -> Self {
        Self::with_access(
            address,
            Duration::from_secs(2),
            PoolLimits::default(),
            &Access::default(),
        )
    }

    /// A client with limits of its own; `connect_timeout` covers name resolution too.
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

    /// Where the backend is.
    pub fn address(&self) -> &Address {
        &self.target().address
    }

    fn target(&self) -> &Target {
        match &self.0 {
            Either::Plain(leaf) => leaf.target(),
            Either::Tls(leaf) => Leaf::<B>::target(&**leaf),
        }
    }

    /// How many connections wait in the pool; `None` over TLS, where they are not counted.
    pub fn idle_connections(&self) -> Option<usize> {
        match &self.0 {
            Either::Plain(leaf) => leaf.idle_connections(),
            Either::Tls(leaf) => Leaf::<B>::idle_connections(&**leaf),
        }
    }

    /// Closes idle connections that are too old or that the backend has closed. An idle
    /// connection of plain HTTP is polled by no task, so the owner should call this now and then.
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
    type Future = Asking<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Asking<B> {
        self.target().prepare(&mut request);
        match &self.0 {
            Either::Plain(leaf) => Box::pin(leaf.clone().ask(request)),
            Either::Tls(leaf) => Box::pin(leaf.clone().ask(request)),
        }
    }
}
