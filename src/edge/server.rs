//! The accept loop and the drain.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use llamatower_layers::BoxError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::accept::Acceptor;
use super::bind::{BindError, bind};
use super::config::{EdgeConfig, ListenAddr};
use super::connection::{self, Closing, Limits};
use super::gauges::Gauges;
use super::listener::{Accepted, Listener};
use super::refusal::Refusal;
use super::request_body::RequestBody;
use super::service::MakeEdgeService;
use super::shutdown::Shutdown;

/// How long streams have to write their last frames after they were told to end.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// Connections beyond the limit that are told so at once; more are closed without a word.
const MOST_REFUSALS: usize = 64;

/// Listening sockets, ready to serve.
pub struct Edge {
    listeners: Vec<Listener>,
    config: EdgeConfig,
    gauges: Arc<Gauges>,
    cutoff: CancellationToken,
}

/// What a drain came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that ended between the signal and the end of the drain's time.
    pub completed: u64,
    /// Requests that were cut off then.
    pub cut: u64,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge")
            .field("listening", &self.local_addrs())
            .finish_non_exhaustive()
    }
}

impl Edge {
    /// Listens on every address of the configuration. Clients that come before
    /// [`serve`](Self::serve) wait.
    ///
    /// A socket file that no process listens on is replaced.
    ///
    /// # Errors
    /// One of the addresses cannot be listened on.
    pub async fn bind(config: EdgeConfig) -> Result<Self, BindError> {
        let bind = |address| bind(address, config.write_stall_timeout);
        let listeners = config.listen.iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Self {
            listeners,
            config,
            gauges: Arc::default(),
            cutoff: CancellationToken::new(),
        })
    }

    /// Where the edge listens, in the order of the configuration, with the ports that the system
    /// chose.
    pub fn local_addrs(&self) -> Vec<ListenAddr> {
        self.listeners.iter().map(Listener::local_addr).collect()
    }

    /// Is cancelled when a drain's time is over: streams then have a second to write their last
    /// frames.
    pub fn cutoff(&self) -> CancellationToken {
        self.cutoff.clone()
    }

    /// The edge's counts.
    pub fn gauges(&self) -> Arc<Gauges> {
        self.gauges.clone()
    }

    /// Serves until the shutdown is asked for, and drains:
    ///
    /// ```text
    /// signal ── drain_delay ──────── drain_timeout ─────────── 1 s ───── end
    /// /health is 503                 no new connections        cutoff    what is
    /// connections are accepted,      idle ones are closed,     fires     left is
    /// answers say Connection: close  requests go on                      dropped
    /// ```
    ///
    /// It returns as soon as nothing is left. Asked to end at once it skips what is left of this.
    pub async fn serve<S, B>(self, stack: S, shutdown: Shutdown) -> Drained
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Self {
            listeners,
            config,
            gauges,
            cutoff,
        } = self;
        let mut acceptor = Acceptor::new(listeners, gauges.clone());
        let mut connections = Connections::new(&config, gauges.clone(), stack);
        let mut finished_before = None;
        let draining = async {
            shutdown.draining().await;
            gauges.draining.store(true, Relaxed);
            finished_before = Some(gauges.finished());
            sleep(config.drain_delay).await;
        };
        tokio::select! {
            () = connections.accept(&mut acceptor) => {}
            () = draining => {}
            () = shutdown.ending() => {}
        }
        let finished_before = finished_before.unwrap_or_else(|| gauges.finished());
        tokio::select! {
            () = connections.finish(acceptor) => {}
            () = sleep(config.drain_timeout) => {}
            () = shutdown.ending() => {}
        }
        let drained = Drained {
            completed: gauges.finished() - finished_before,
            cut: gauges.in_flight() as u64,
        };
        connections.close();
        cutoff.cancel();
        tokio::select! {
            () = connections.tasks.wait() => {}
            () = sleep(FLUSH_TIME) => {}
            () = shutdown.ending() => {}
        }
        connections.now.cancel();
        connections.tasks.wait().await;
        drained
    }
}

/// The tasks of an edge.
struct Connections<S> {
    services: Arc<MakeEdgeService<S>>,
    limits: Arc<Limits>,
    max: usize,
    gauges: Arc<Gauges>,
    tasks: TaskTracker,
    /// The connections accepted since [`finish`](Self::finish) last replaced this tracker.
    generation: TaskTracker,
    /// Asks the connections of the generation to end after the request under way.
    soon: CancellationToken,
    /// Ends them at once.
    now: CancellationToken,
    refusals: TaskTracker,
}

impl<S, B> Connections<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn new(config: &EdgeConfig, gauges: Arc<Gauges>, stack: S) -> Self {
        Self {
            services: Arc::new(MakeEdgeService::new(stack, config, gauges.clone())),
            limits: Arc::new(Limits {
                header: config.header_timeout,
                keep_alive: config.keep_alive_timeout,
                total: config.total_timeout,
                write_stall: config.write_stall_timeout,
                head_bytes: config.max_head_bytes,
                head_fields: config.max_head_fields,
            }),
            max: config.max_connections,
            gauges,
            tasks: TaskTracker::new(),
            generation: TaskTracker::new(),
            soon: CancellationToken::new(),
            now: CancellationToken::new(),
            refusals: TaskTracker::new(),
        }
    }

    async fn accept(&mut self, acceptor: &mut Acceptor) {
        loop {
            let accepted = acceptor.accept().await;
            self.admit(accepted);
        }
    }

    /// Asks all connections to end, and accepts others until those are gone; then ends these, too.
    async fn finish(&mut self, mut acceptor: Acceptor) {
        self.close();
        let first = std::mem::replace(&mut self.generation, TaskTracker::new());
        self.soon = CancellationToken::new();
        tokio::select! {
            () = self.accept(&mut acceptor) => {}
            () = first.wait() => {}
        }
        drop(acceptor);
        self.close();
        self.tasks.wait().await;
    }

    fn admit(&mut self, accepted: Accepted) {
        if self.gauges.connections() >= self.max {
            self.refuse(accepted);
            return;
        }
        let closing = Closing {
            soon: self.soon.child_token(),
            now: self.now.child_token(),
        };
        let open = self.gauges.clone().open();
        let served = connection::serve(
            accepted,
            self.services.clone(),
            self.limits.clone(),
            closing,
            open,
        );
        let served = self.generation.track_future(served);
        self.tasks.spawn(served);
    }

    /// Tells a connection beyond the limit that it is one too many. To leave it in the kernel's
    /// queue instead would keep its client, and the probes of `/health` behind it, waiting
    /// without a word.
    fn refuse(&mut self, accepted: Accepted) {
        self.gauges.refused_connections.fetch_add(1, Relaxed);
        let refusal = Refusal::TooManyConnections;
        let rules = self.services.rules();
        // What the client asks for has not been read.
        let dialect = rules.refuse_head(refusal, b"", accepted.peer);
        if self.refusals.len() < MOST_REFUSALS {
            self.refusals.spawn(refusal.tell(accepted.stream, dialect));
        }
    }

    /// Asks every connection to end: at once if idle, otherwise after its request.
    fn close(&mut self) {
        self.soon.cancel();
        self.generation.close();
        self.tasks.close();
    }
}
