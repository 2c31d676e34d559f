//! The accept loop and the drain.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use llamatower_layers::BoxError;
use tokio::sync::oneshot;
use tokio::task::{self, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::accept::Acceptor;
use super::bind::{BindError, bind};
use super::connection::{self, Limits};
use super::exchange::Terms;
use super::gauges::Gauges;
use super::listener::{Accepted, Listener, Stream};
use super::request::Rules;
use super::{EdgeConfig, ListenAddr, RequestBody, Shutdown};

/// How long streams have to write their last frames after they were told to end.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// Connections beyond the limit that are told so at once; more are closed without a word.
const MOST_REFUSALS: usize = 64;
/// What they are told.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 33\r\n\
    Retry-After: 1\r\n\
    Connection: close\r\n\
    \r\n\
    {\"error\":\"too many connections\"}\n";

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

    /// Cancelled when a drain's time is over: streams then have a second to write their last
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
    /// connections are accepted,      idle ones are closed,     comes     left is
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
        let finished_before = tokio::select! {
            finished = connections.serve(&mut acceptor, &shutdown, config.drain_delay) => finished,
            () = shutdown.ending() => gauges.finished(),
        };
        connections.close();
        tokio::select! {
            () = connections.end(acceptor) => {}
            () = sleep(config.drain_timeout) => {}
            () = shutdown.ending() => {}
        }
        let drained = Drained {
            completed: gauges.finished() - finished_before,
            cut: gauges.in_flight() as u64,
        };
        cutoff.cancel();
        tokio::select! {
            () = connections.join() => {}
            () = sleep(FLUSH_TIME) => {}
            () = shutdown.ending() => {}
        }
        connections.tasks.shutdown().await;
        gauges.connections.store(0, Relaxed);
        drained
    }
}

/// The tasks of an edge.
struct Connections<S> {
    stack: S,
    rules: Arc<Rules>,
    limits: Limits,
    body_timeout: Option<Duration>,
    max: usize,
    gauges: Arc<Gauges>,
    tasks: JoinSet<()>,
    /// Each asks one task to end after the request under way.
    closers: HashMap<task::Id, oneshot::Sender<()>>,
    refusals: JoinSet<()>,
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
            stack,
            rules: Arc::new(Rules::new(config)),
            limits: Limits {
                header: config.header_timeout,
                keep_alive: config.keep_alive_timeout,
                total: config.total_timeout,
                write_stall: config.write_stall_timeout,
            },
            body_timeout: config.body_timeout,
            max: config.max_connections,
            gauges,
            tasks: JoinSet::new(),
            closers: HashMap::new(),
            refusals: JoinSet::new(),
        }
    }

    /// Accepts until the shutdown is asked for and `delay` has passed; returns how many requests
    /// had ended when it was asked for.
    async fn serve(
        &mut self,
        acceptor: &mut Acceptor,
        shutdown: &Shutdown,
        delay: Duration,
    ) -> u64 {
        let gauges = self.gauges.clone();
        let mut enough = pin!(async {
            shutdown.draining().await;
            gauges.draining.store(true, Relaxed);
            let finished = gauges.finished();
            sleep(delay).await;
            finished
        });
        loop {
            tokio::select! {
                finished = &mut enough => return finished,
                () = self.step(acceptor) => {}
            }
        }
    }

    /// Accepts until all that were told to [`close`](Self::close) are gone, then ends the others.
    async fn end(&mut self, mut acceptor: Acceptor) {
        while self.tasks.len() > self.closers.len() {
            self.step(&mut acceptor).await;
        }
        drop(acceptor);
        self.close();
        self.join().await;
    }

    async fn step(&mut self, acceptor: &mut Acceptor) {
        tokio::select! {
            Some(joined) = self.tasks.join_next_with_id() => self.ended(joined),
            Some(_) = self.refusals.join_next() => {}
            accepted = acceptor.accept() => self.admit(accepted),
        }
    }

    fn admit(&mut self, accepted: Accepted) {
        let Accepted {
            stream,
            peer,
            on_loopback,
        } = accepted;
        if self.tasks.len() >= self.max {
            self.refuse(stream);
            return;
        }
        let terms = Terms {
            rules: self.rules.clone(),
            gauges: self.gauges.clone(),
            peer,
            on_loopback,
            body_timeout: self.body_timeout,
        };
        let (close, closed) = oneshot::channel();
        let task = connection::serve(stream, self.stack.clone(), terms, self.limits, closed);
        let id = self.tasks.spawn(task).id();
        self.closers.insert(id, close);
        self.gauges.connections.store(self.tasks.len(), Relaxed);
    }

    /// Tells a connection beyond the limit that it is one too many. To leave it in the kernel's
    /// queue instead would keep its client, and the probes of `/health` behind it, waiting
    /// without a word.
    fn refuse(&mut self, stream: Stream) {
        self.gauges.refused_connections.fetch_add(1, Relaxed);
        if self.refusals.len() < MOST_REFUSALS {
            self.refusals.spawn(async move {
                let mut stream = stream;
                let written = std::future::poll_fn(|cx| {
                    tokio::io::AsyncWrite::poll_write(std::pin::Pin::new(&mut stream), cx, REFUSAL)
                });
                // An empty send buffer takes these few bytes at once.
                if written.await.is_ok() {
                    connection::linger(stream).await;
                }
            });
        }
    }

    fn ended(&mut self, joined: Result<(task::Id, ()), task::JoinError>) {
        let id = match joined {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked");
                }
                error.id()
            }
        };
        self.closers.remove(&id);
        self.gauges.connections.store(self.tasks.len(), Relaxed);
    }

    /// Asks every connection to end: at once if idle, otherwise after its request.
    fn close(&mut self) {
        self.refusals.abort_all();
        for (_, close) in self.closers.drain() {
            // A task that has just ended needs no asking.
            let _ = close.send(());
        }
    }

    async fn join(&mut self) {
        while let Some(joined) = self.tasks.join_next_with_id().await {
            self.ended(joined);
        }
    }
}
