//! The upstream leaf: HTTP/1.1 to one backend, with the connection polled where its answer is read.
//!
//! A pooled client drives each connection in a task of its own, so every frame of a stream
//! crosses from that task to the client's and leaves in a write of its own. Here hyper's connection
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
mod connection;
mod error;
mod exchange;
mod pool;
mod socket;
mod state;

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

pub use address::{Address, InvalidAddress};
pub use body::UpstreamBody;
pub use connect::Connector;
pub use error::{AnswerBroken, ConnectFailed, ConnectTimeout, ConnectionLost, InvalidAnswer};
pub use pool::PoolLimits;

use exchange::Shared;

/// A client of one backend, as a service. `B` is the body of its requests.
///
/// The request's path goes out as it is and its `Host` becomes the backend's own authority;
/// everything else about headers is the caller's to decide. A request whose extensions have a
/// callback of [`hyper::ext::on_informational`] learns of `100 Continue`.
#[derive(Debug)]
pub struct Upstream<B: Body + 'static> {
    shared: Arc<Shared<B>>,
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
            shared: Arc::new(Shared::new(address, connect_timeout, limits)),
        }
    }

    /// Where the backend is.
    pub fn address(&self) -> &Address {
        self.shared.address()
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
    /// Closes idle connections that are too old or that the backend has closed. An idle
    /// connection is polled by no task, so the owner should call this now and then.
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
        Box::pin(exchange::exchange(self.shared.clone(), request))
    }
}
