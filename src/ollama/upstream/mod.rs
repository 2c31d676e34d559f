//! The upstream leaf: HTTP/1.1 to one backend, with the connection polled where its answer is read.
//!
//! A pooled client drives each connection in a task of its own, so every frame of a stream
//! crosses from that task to the client's and leaves in a write of its own. Here the connection
//! is read inside the future of the request and then inside the body of the answer, by the
//! task that serves the client: what has come together leaves together, as one frame, and dropping
//! the body closes the connection, which is how Ollama learns that its client has gone. Bytes are
//! read into memory that all connections of a thread share, so a stream that waits holds none.
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
mod future;
mod head;
mod link;
mod pool;
mod send;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response};
use http_body::Body;
use llamatower_layers::{BoxError, Failure};
use tower::Service;

pub use address::{Address, InvalidAddress};
pub use body::UpstreamBody;
pub use connect::Connector;
pub use error::{AnswerBroken, ConnectFailed, ConnectTimeout, ConnectionLost, InvalidAnswer};
pub use future::UpstreamFuture;
pub use link::call_on_continue;
pub use pool::PoolLimits;

use link::Unanswered;
use pool::Pool;
use send::Sending;

use crate::http1::decode::Malformed;
use crate::http1::fields::keep_map;

/// A client of one backend, as a service.
///
/// The request's path goes out as it is and its `Host` becomes the backend's own authority;
/// everything else about headers is the caller's to decide.
#[derive(Clone, Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: Address,
    connector: Connector,
    pool: Arc<Pool>,
}

impl Upstream {
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

    /// Closes idle connections that are too old or that the backend has closed. Nobody polls an
    /// idle connection, so somebody should call this now and then.
    pub fn prune(&self) {
        self.shared.pool.prune();
    }
}

impl<B> Service<Request<B>> for Upstream
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<UpstreamBody<B>>;
    type Error = BoxError;
    type Future = UpstreamFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> UpstreamFuture<B> {
        let (mut head, body) = request.into_parts();
        head.headers
            .insert(HOST, self.shared.address.authority_header());
        let on_continue = head.extensions.remove();
        let sending = Sending::new(&mut head, body);
        // The head is on its way as bytes: nothing else of it is kept while the answer is waited for.
        keep_map(head.headers);
        UpstreamFuture::new(self.shared.clone(), sending, head.method, on_continue)
    }
}

impl Shared {
    /// The error of a request that got no answer.
    fn failed(&self, cause: Unanswered, is_reused: bool) -> BoxError {
        match cause {
            Unanswered::Lost(error) => self.lost(error, is_reused),
            Unanswered::Invalid(Malformed(reason)) => {
                Failure::from(InvalidAnswer::new(&self.address, reason)).into()
            }
            Unanswered::Body(error) => error,
        }
    }

    /// A backend that was restarted closes all its connections, so one that was found dead
    /// condemns the idle ones, and the next attempt gets a fresh one.
    fn lost(&self, error: io::Error, reused: bool) -> BoxError {
        if reused {
            self.pool.clear();
        }
        Failure::from(ConnectionLost::new(&self.address, reused, error)).into()
    }
}
