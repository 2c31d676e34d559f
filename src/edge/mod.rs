//! Sockets and their clocks: what stands between a client and the stack.
//!
//! ```text
//! bind ── accept ── connection ── rules (health, Host, Origin) ── stack
//!           │          └ write-stall clock, head clock, lingering close
//!           └ drain: leaving (503 on /health) ─ draining ─ cut off ─ over
//! ```
//!
//! hyper alone serves the connections; what no layer can keep is kept here, because only the
//! socket sees whether a client reads.

mod connection;
mod linger;
mod listen;
mod origin;
mod phase;
mod service;
mod signal;
mod stall;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use llamatower_layers::{BoxError, EndpointTable};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tower::Service;

pub use listen::{BindError, ListenAddr, Peer};
pub use origin::Origins;
pub use signal::Signals;

use connection::ConnectionClocks;
use listen::{Listener, Stream};
use phase::{Phase, PhaseWatch};
use service::{EdgeService, Rules};

/// After an accept that failed for want of file descriptors: time for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After the cut: time for error frames to leave.
const FLUSH: Duration = Duration::from_secs(1);

/// How an edge treats its connections.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Where to listen.
    pub listen: Vec<ListenAddr>,
    /// How long a request's head may take, and how long a connection may wait for one.
    pub head_timeout: Duration,
    /// How long a client may read nothing while it is being written to.
    pub write_stall_timeout: Duration,
    /// How long connections are still accepted when the end was asked for.
    pub drain_delay: Duration,
    /// How long requests under way may take from then on.
    pub drain_timeout: Duration,
    /// How many connections are open at a time; further ones wait to be accepted.
    pub max_connections: usize,
    /// A prefix of all paths, like `/ollama`, or nothing.
    pub base_path: String,
    /// Whose pages may call.
    pub origins: Origins,
    /// The known routes, for the answers to preflights.
    pub endpoints: EndpointTable,
    /// Turns true when what is still under way is to end with an error.
    pub cutoff: watch::Sender<bool>,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddr::Tcp(([127, 0, 0, 1], 3000).into())],
            head_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(60),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            max_connections: 16_384,
            base_path: String::new(),
            origins: Origins::new([]),
            endpoints: EndpointTable::ollama(),
            cutoff: watch::Sender::new(false),
        }
    }
}

/// Bound sockets that do not accept yet.
#[derive(Debug)]
pub struct Edge {
    listeners: Vec<Listener>,
    config: EdgeConfig,
}

impl Edge {
    /// Binds all addresses.
    ///
    /// # Errors
    /// One of them cannot be listened on.
    pub fn bind(config: EdgeConfig) -> Result<Self, BindError> {
        let listeners = config.listen.iter().map(Listener::bind);
        Ok(Self {
            listeners: listeners.collect::<Result<_, _>>()?,
            config,
        })
    }

    /// Where it listens, with the ports that were taken.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn local_addrs(&self) -> io::Result<Vec<ListenAddr>> {
        self.listeners.iter().map(Listener::local_addr).collect()
    }

    /// Serves `stack` until `leave` completes, then drains: `/health` turns 503 and connections
    /// are still accepted for the drain delay; then idle ones are closed and requests under way
    /// may end; at the drain time-out what is left is cut off with an error.
    pub async fn serve<S, B>(self, stack: S, leave: impl Future<Output = ()>)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (phase, seen) = watch::channel(Phase::Serving);
        let connections = TaskTracker::new();
        let acceptor = Arc::new(Acceptor {
            stack: std::sync::Mutex::new(stack),
            rules: Arc::new(Rules {
                base_path: self.config.base_path.clone(),
                origins: self.config.origins.clone(),
                host_name: host_name(),
                endpoints: self.config.endpoints.clone(),
                phase: seen.clone(),
            }),
            clocks: ConnectionClocks {
                head: self.config.head_timeout,
                write_stall: self.config.write_stall_timeout,
            },
            places: Arc::new(Semaphore::new(self.config.max_connections)),
            connections: connections.clone(),
            phase: seen,
        });
        let accepting = self
            .listeners
            .into_iter()
            .map(|listener| tokio::spawn(accept_until_draining(listener, acceptor.clone())));
        let accepting: Vec<_> = accepting.collect();
        leave.await;
        phase.send_replace(Phase::Leaving);
        tokio::time::sleep(self.config.drain_delay).await;
        phase.send_replace(Phase::Draining);
        for task in accepting {
            let _ = task.await;
        }
        connections.close();
        if tokio::time::timeout(self.config.drain_timeout, connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = connections.len(),
                after = ?self.config.drain_timeout,
                "the drain time-out has passed: requests under way are cut off"
            );
            self.config.cutoff.send_replace(true);
            let _ = tokio::time::timeout(FLUSH, connections.wait()).await;
        }
        phase.send_replace(Phase::Over);
        connections.wait().await;
    }
}

struct Acceptor<S> {
    stack: std::sync::Mutex<S>,
    rules: Arc<Rules>,
    clocks: ConnectionClocks,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    phase: watch::Receiver<Phase>,
}

async fn accept_until_draining<S, B>(listener: Listener, acceptor: Arc<Acceptor<S>>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut phase = acceptor.phase.clone();
    let is_loopback = match listener.local_addr() {
        Ok(ListenAddr::Tcp(addr)) => addr.ip().is_loopback(),
        _ => false,
    };
    let accepting = async {
        loop {
            let Ok(place) = acceptor.places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = acceptor.connection(stream, peer, is_loopback);
                    acceptor.connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => {}
    }
}

impl<S> Acceptor<S> {
    fn connection<B>(
        &self,
        stream: Stream,
        peer: Peer,
        is_loopback: bool,
    ) -> impl Future<Output = ()> + Send + use<S, B>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let stack = self
            .stack
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let service = EdgeService {
            stack: stack.clone(),
            rules: self.rules.clone(),
            peer,
            is_loopback,
        };
        let phase = PhaseWatch::new(self.phase.clone());
        connection::serve(stream, service, self.clocks, phase)
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}
