//! The accept loop and the drain.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Acceptor;
use super::address::ListenAddr;
use super::begin;
use super::bind::{BindError, bind};
use super::config::EdgeConfig;
use super::connection::{Closing, Limits};
use super::gauges::Gauges;
use super::listener::{Accepted, Listener};
use super::over_limit;
use super::refusal::Refusal;
use super::service::MakeEdgeService;
use super::shutdown::Shutdown;
use super::stack::HttpStack;

/// How long streams have to write their last frames after the cut-off.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// Connections beyond the limit that are answered at the same time; more are closed without a
/// response. A client that reads its 503 late holds one of them for 2 s.
const MOST_REFUSALS: usize = 1024;
/// The same with TLS, where each costs a handshake. A client that does not complete it holds one of them for
/// 2 s.
const MOST_TLS_REFUSALS: usize = 64;

/// Listening sockets, ready to serve.
pub struct Edge {
    listeners: Vec<Listener>,
    config: EdgeConfig,
    gauges: Arc<Gauges>,
    cutoff: CancellationToken,
}

/// Result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that ended between the signal and the end of the drain.
    pub completed: u64,
    /// Requests that were cut off at the end of the drain.
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
    /// Listens on every configured address. Clients that connect before [`serve`](Self::serve)
    /// wait.
    ///
    /// A socket file that no process listens on is replaced.
    ///
    /// # Errors
    /// Listening on one of the addresses failed.
    pub async fn bind(config: EdgeConfig) -> Result<Self, BindError> {
        let speaks_tls = |address| {
            let tls = config.tls.as_ref();
            tls.is_some_and(|tls| tls.addresses.contains(address))
        };
        let bind = |address| match (
            bind(address, config.write_stall_timeout),
            speaks_tls(address),
        ) {
            (Ok(listener), true) => Ok(listener.with_tls()),
            (bound, _) => bound,
        };
        let listeners = config.listen.iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Self {
            listeners,
            config,
            gauges: Arc::default(),
            cutoff: CancellationToken::new(),
        })
    }

    /// The addresses that the edge listens on, in the configured order, with the ports that the
    /// system chose.
    pub fn local_addrs(&self) -> Vec<ListenAddr> {
        self.listeners.iter().map(Listener::local_addr).collect()
    }

    /// The same addresses, each with whether it speaks TLS.
    pub fn addresses(&self) -> impl Iterator<Item = (ListenAddr, bool)> {
        let listeners = self.listeners.iter();
        listeners.map(|listener| (listener.local_addr(), listener.is_tls()))
    }

    /// Cancelled when the drain's time is over. Streams then have one second to write their last
    /// frames.
    pub fn cutoff(&self) -> CancellationToken {
        self.cutoff.clone()
    }

    /// The edge's counters.
    pub fn gauges(&self) -> Arc<Gauges> {
        self.gauges.clone()
    }

    /// Serves until shutdown is requested, and then drains:
    ///
    /// ```text
    /// signal ── drain_delay ──────── drain_timeout ─────────── 1 s ───── end
    /// /health is 503                 no new connections        cutoff    what is
    /// connections are accepted,      idle ones are closed,     fires     left is
    /// answers say Connection: close  requests go on                      dropped
    /// ```
    ///
    /// It returns as soon as no connection is left. [`Shutdown::end_now`] ends it at once.
    pub async fn serve<S: HttpStack>(self, stack: S, shutdown: Shutdown) -> Drained {
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
    /// Asks the connections of this generation to end after the request in flight.
    graceful: CancellationToken,
    /// Ends them at once.
    now: CancellationToken,
    refusals: TaskTracker,
    tls_refusals: TaskTracker,
}

impl<S: HttpStack> Connections<S> {
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
                plain_http2: config.plain_http2,
            }),
            max: config.max_connections,
            gauges,
            tasks: TaskTracker::new(),
            generation: TaskTracker::new(),
            graceful: CancellationToken::new(),
            now: CancellationToken::new(),
            refusals: TaskTracker::new(),
            tls_refusals: TaskTracker::new(),
        }
    }

    async fn accept(&mut self, acceptor: &mut Acceptor) {
        loop {
            let accepted = acceptor.accept().await;
            self.admit(accepted);
        }
    }

    /// Closes all connections gracefully, while it accepts others until those have ended; then
    /// closes the others too.
    async fn finish(&mut self, mut acceptor: Acceptor) {
        self.close();
        let first = std::mem::replace(&mut self.generation, TaskTracker::new());
        self.graceful = CancellationToken::new();
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
            graceful: self.graceful.child_token(),
            now: self.now.child_token(),
        };
        let open = self.gauges.clone().open();
        let served = begin::serve(
            accepted,
            self.services.clone(),
            self.limits.clone(),
            closing,
            open,
        );
        let served = self.generation.track_future(served);
        self.tasks.spawn(served);
    }

    /// Answers a connection beyond the limit with 503, or a probe of `/health` as usual. If it stayed in
    /// the kernel's queue instead, its client, and the probes behind it, would wait without a
    /// response.
    fn refuse(&mut self, accepted: Accepted) {
        let (refusals, most) = match accepted.is_tls {
            true => (&self.tls_refusals, MOST_TLS_REFUSALS),
            false => (&self.refusals, MOST_REFUSALS),
        };
        if refusals.len() >= most {
            self.gauges.refused_connections.fetch_add(1, Relaxed);
            // The client's request has not been read.
            let refusal = Refusal::TooManyConnections;
            let rules = self.services.rules();
            rules.refuse_head(refusal, b"", accepted.peer);
            return;
        }
        let closing = Closing {
            graceful: self.graceful.child_token(),
            now: self.now.child_token(),
        };
        let (services, limits) = (self.services.clone(), self.limits.clone());
        refusals.spawn(over_limit::refuse(accepted, services, limits, closing));
    }

    /// Closes every connection: an idle one at once, another after its request.
    fn close(&mut self) {
        self.graceful.cancel();
        self.generation.close();
        self.tasks.close();
    }
}
