//! A simulated server, and the handle through which a test uses it.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::fault::{Fault, FaultKind, Faults};
use crate::log::{Log, SeenRequest, SimState};
use crate::model::ModelSpec;
use crate::name::Name;
use crate::prefix::PrefixCache;
use crate::scheduler::{KeepAlive, Scheduler};
use crate::server::{self, Gate};

/// An installed model.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    /// The name in lists.
    pub(crate) name: String,
    /// The identity that names with the same weights share.
    pub(crate) spec: Arc<ModelSpec>,
    pub(crate) digest: String,
    pub(crate) modified_at: Timestamp,
}

/// The state of one server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) seed: u64,
    pub(crate) log: Arc<Log>,
    pub(crate) faults: Faults,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) clock: Clock,
    pub(crate) prefixes: Option<Mutex<PrefixCache>>,
    pub(crate) blobs: Mutex<HashSet<String>>,
    pub(crate) registry: BTreeMap<String, Installed>,
    models: Mutex<BTreeMap<String, Installed>>,
    gate: watch::Sender<Gate>,
    ids: AtomicU64,
}

impl Server {
    /// The next number for an id.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn models(&self) -> MutexGuard<'_, BTreeMap<String, Installed>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cached prefixes, if the server caches any.
    pub(crate) fn prefixes(&self) -> Option<MutexGuard<'_, PrefixCache>> {
        let cache = self.prefixes.as_ref()?;
        Some(cache.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The model with a name as a client writes it.
    pub(crate) fn find(&self, name: &str) -> Option<Installed> {
        let name = Name::parse(name)?;
        self.models().get(&name.key()).cloned()
    }

    pub(crate) fn arm(&self, fault: Fault) -> Result<(), &'static str> {
        if let Some(reason) = fault.invalid_reason() {
            return Err(reason);
        }
        match fault.kind {
            FaultKind::Refuse { ms } => {
                self.gate.send_replace(Gate::Refusing(in_millis(ms)));
            }
            FaultKind::ResetAccepts { ms } => {
                self.gate.send_replace(Gate::Resetting(in_millis(ms)));
            }
            _ => self.faults.arm(fault),
        }
        Ok(())
    }

    /// Opens the gate, unless it was changed in the meantime.
    pub(crate) fn reopen(&self, was: Gate) {
        self.gate.send_if_modified(|gate| {
            let is_same = *gate == was;
            if is_same {
                *gate = Gate::Open;
            }
            is_same
        });
    }

    pub(crate) fn state(&self) -> SimState {
        let log = &self.log;
        let mut state = SimState {
            connections_accepted: log.connections_accepted.load(Ordering::Relaxed),
            connections_open: log.connections_open.load(Ordering::Relaxed),
            requests_seen: log.requests_seen.load(Ordering::Relaxed),
            in_flight: log.in_flight.load(Ordering::Relaxed),
            cancelled: log.cancelled.load(Ordering::Relaxed),
            generating: 0,
            waiting_for_slot: 0,
            waiting_for_load: 0,
            loads: 0,
            loads_aborted: 0,
            resident: Vec::new(),
            requests: log.requests(),
        };
        self.scheduler.describe(&mut state);
        state
    }
}

/// The time after these milliseconds; after a day if there are more.
fn in_millis(ms: u64) -> Instant {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    Instant::now() + Duration::from_millis(ms).min(LONGEST)
}

/// The options of a simulated server.
#[derive(Clone, Debug)]
pub struct SimBuilder {
    version: String,
    models: Vec<ModelSpec>,
    registry: Vec<ModelSpec>,
    max_queue: usize,
    max_loaded: usize,
    speed: Option<f64>,
    prefix_cache: Option<u64>,
    seed: u64,
    log_capacity: usize,
    address: SocketAddr,
}

/// A simulated Ollama server.
///
/// ```
/// use llamatower_sim::{ModelSpec, Sim};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let sim = Sim::builder().model(ModelSpec::new("tiny")).start().await?;
/// println!("OLLAMA_HOST={}", sim.url());
/// assert_eq!(sim.state().requests_seen, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sim;

impl Sim {
    /// A server without models, of version 0.33.0, on a free port of the loopback interface.
    pub fn builder() -> SimBuilder {
        SimBuilder {
            version: "0.33.0-rc2".to_owned(),
            models: Vec::new(),
            registry: Vec::new(),
            max_queue: 512,
            max_loaded: 3,
            speed: None,
            prefix_cache: None,
            seed: 7,
            log_capacity: 4096,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
        }
    }
}

impl SimBuilder {
    /// Installs a model.
    pub fn model(mut self, model: ModelSpec) -> Self {
        self.models.push(model);
        self
    }

    /// Puts a model into the registry from which the server pulls; by default it is empty.
    pub fn in_registry(mut self, model: ModelSpec) -> Self {
        self.registry.push(model);
        self
    }

    /// The version in `/api/version`.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// The maximum number of requests that wait for a load (`OLLAMA_MAX_QUEUE`).
    pub fn max_queue(mut self, requests: usize) -> Self {
        self.max_queue = requests;
        self
    }

    /// The maximum number of models in memory (`OLLAMA_MAX_LOADED_MODELS`).
    pub fn max_loaded(mut self, models: usize) -> Self {
        self.max_loaded = models;
        self
    }

    /// Runs this many times faster than real time, with timers that are precise enough for that:
    /// loads, prompts, tokens and the default keep-alive take less time. A speed of 0 or less is
    /// ignored.
    pub fn speed(mut self, speed: f64) -> Self {
        self.speed = (speed > 0.0).then_some(speed);
        self
    }

    /// Keeps the prefixes of so many tokens of recent prompts: a prompt that begins like one of
    /// them takes less time. By default each prompt is processed completely.
    pub fn prefix_cache(mut self, tokens: u64) -> Self {
        self.prefix_cache = Some(tokens);
        self
    }

    /// The seed of its texts.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The number of requests in the log; 0 for load tests.
    pub fn log_capacity(mut self, requests: usize) -> Self {
        self.log_capacity = requests;
        self
    }

    /// The listen address.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Starts the server on the current runtime.
    ///
    /// # Errors
    /// The server cannot listen on the address.
    pub async fn start(self) -> io::Result<SimHandle> {
        let log = Arc::new(Log::new(self.log_capacity));
        let events = log.events.clone();
        let (gate, opened) = watch::channel(Gate::Open);
        let started = Timestamp::now();
        let install = |spec: ModelSpec| {
            let name = Name::parse(&spec.name)?;
            let spec = spec.at_speed(self.speed.unwrap_or(1.0));
            let installed = Installed {
                name: name.short(),
                digest: spec.digest.clone().unwrap_or_else(|| spec.weights()),
                modified_at: spec.modified_at.unwrap_or(started),
                spec: Arc::new(spec),
            };
            Some((name.key(), installed))
        };
        let models = self.models.into_iter().filter_map(install);
        let registry = self.registry.into_iter().filter_map(install);
        let server = Arc::new(Server {
            version: self.version,
            seed: self.seed,
            faults: Faults::default(),
            scheduler: Arc::new(Scheduler::new(
                self.max_queue,
                self.max_loaded,
                KeepAlive::default_at_speed(self.speed.unwrap_or(1.0)),
                events,
            )),
            clock: match self.speed {
                Some(_) => Clock::Precise,
                None => Clock::Runtime,
            },
            prefixes: self.prefix_cache.map(PrefixCache::new).map(Mutex::new),
            blobs: Mutex::default(),
            registry: registry.collect(),
            models: Mutex::new(models.collect()),
            log,
            gate,
            ids: AtomicU64::new(1),
        });
        let listener = server::bind(self.address)?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(server::accept(listener, address, server.clone(), opened));
        let scheduler = server.scheduler.clone();
        let timing = tokio::spawn(async move { scheduler.run_expiries().await });
        Ok(SimHandle {
            server,
            address,
            tasks: [accepting.abort_handle(), timing.abort_handle()],
        })
    }
}

/// A running server. Dropping it resets its connections, like a killed process.
#[derive(Debug)]
pub struct SimHandle {
    server: Arc<Server>,
    address: SocketAddr,
    tasks: [tokio::task::AbortHandle; 2],
}

impl SimHandle {
    /// The listen address.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL, `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Arms a fault.
    ///
    /// # Errors
    /// The fault can never be triggered: the reason.
    pub fn try_arm(&self, fault: impl Into<Fault>) -> Result<(), &'static str> {
        self.server.arm(fault.into())
    }

    /// Arms a fault.
    ///
    /// # Panics
    /// The fault can never be triggered: see [`Fault`].
    pub fn arm(&self, fault: impl Into<Fault>) {
        if let Err(reason) = self.try_arm(fault) {
            panic!("{reason}");
        }
    }

    /// Disarms all faults.
    pub fn clear_faults(&self) {
        self.server.faults.clear();
    }

    /// The current state of the server.
    pub fn state(&self) -> SimState {
        self.server.state()
    }

    /// The requests that it received.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.server.log.requests()
    }

    /// Waits until a condition is true, and returns the state at that time.
    pub async fn wait_for(&self, mut is_so: impl FnMut(&SimState) -> bool) -> SimState {
        loop {
            let mut next = std::pin::pin!(self.server.log.events.next());
            next.as_mut().enable();
            let state = self.server.state();
            if is_so(&state) {
                return state;
            }
            next.await;
        }
    }

    /// Ends the server, like SIGKILL ends a process.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        self.server.gate.send_replace(Gate::Closed);
        self.tasks[1].abort();
    }
}
