//! One server: its name and its state. The gateway's own requests to it are in `requests.rs`.

mod requests;
mod unreachable;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Empty;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::{BoxError, Failure};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

pub use self::unreachable::Unreachable;
use super::inventory::Installed;
use super::preload::Starts;
use super::rules::ServerRules;
use crate::ollama::hygiene::is_compressed;
use crate::ollama::upstream::{
    Access, Address, ConnectFailed, ConnectTimeout, PoolLimits, ServerKind, Upstream,
};
use crate::openai::{Server, Translate};

/// The body of the gateway's own requests.
type ProbeBody = ReplayBody<Empty<Bytes>>;

/// How long a list stands for a newer one that the server does not send in time: three intervals of
/// probes by default.
const FRESH_LIST: Duration = Duration::from_secs(15);

/// Largest number of model names in the log line about a server that comes up.
const MOST_NAMES_LOGGED: usize = 20;

/// One server: its name, whether it is up, and the client for the gateway's own requests.
///
/// An OpenAI-compatible server is asked in Ollama's dialect too: its answers are
/// [translated](crate::openai).
pub struct Backend {
    name: Arc<str>,
    address: Address,
    rules: ServerRules,
    /// Separate from the connections of clients' requests, so that a probe never waits for them.
    probe_client: Translate<Upstream<ProbeBody>>,
    /// `None` for an Ollama.
    openai: Option<Arc<Server>>,
    is_up: AtomicBool,
    /// Since when the server does not respond at all; `None` if it does.
    silent_since: Mutex<Option<Instant>>,
    /// Notified when this time begins.
    falls_silent: Arc<Notify>,
    is_cordoned: AtomicBool,
    /// It has no page with gauges, as far as it was asked since it came up.
    lacks_gauges: AtomicBool,
    /// It has told its load when it was asked last.
    has_gauges: AtomicBool,
    /// How often it has come up.
    ups: AtomicU64,
    /// Whether "the backend is up" was logged since it came up.
    is_logged_up: AtomicBool,
    /// The lists that it has sent last, by path.
    lists: Mutex<Vec<(&'static str, Bytes, Instant)>>,
    /// Read once each time the backend comes up.
    version: Mutex<Option<Arc<str>>>,
    /// Whether the last probe failed; only the first failure is a warning.
    probe_failed: AtomicBool,
    /// Whether it was logged that its responses are compressed.
    is_logged_compressed: AtomicBool,
    refused: Notify,
    after_probe: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

impl Backend {
    /// The backend at `address`. It counts as up until a request or a probe fails.
    pub fn new(address: Address, connect_timeout: Duration, access: &Access) -> Self {
        Self::with_state(address, connect_timeout, access, true)
    }

    /// The backend at `address`. It counts as down until a probe succeeds.
    pub fn new_down(address: Address, connect_timeout: Duration, access: &Access) -> Self {
        Self::with_state(address, connect_timeout, access, false)
    }

    fn with_state(
        address: Address,
        connect_timeout: Duration,
        access: &Access,
        is_up: bool,
    ) -> Self {
        let limits = PoolLimits {
            max_idle: 2,
            ..PoolLimits::default()
        };
        let name: Arc<str> = address.to_string().into();
        let openai = match address.kind() {
            ServerKind::Ollama => None,
            ServerKind::OpenAi { has_v1 } => Some(Arc::new(Server::new(name.clone(), has_v1))),
        };
        let client = Upstream::with_access(address.clone(), connect_timeout, limits, access);
        Self {
            name,
            probe_client: Translate::new(client, openai.clone()),
            openai,
            address,
            rules: ServerRules::default(),
            is_up: AtomicBool::new(is_up),
            silent_since: Mutex::default(),
            falls_silent: Arc::default(),
            is_cordoned: AtomicBool::new(false),
            lacks_gauges: AtomicBool::new(false),
            has_gauges: AtomicBool::new(false),
            ups: AtomicU64::new(0),
            is_logged_up: AtomicBool::new(false),
            lists: Mutex::default(),
            version: Mutex::default(),
            probe_failed: AtomicBool::new(false),
            is_logged_compressed: AtomicBool::new(false),
            refused: Notify::new(),
            after_probe: OnceLock::new(),
        }
    }

    /// Sets the rules for the server.
    pub fn with_rules(mut self, rules: ServerRules) -> Self {
        self.rules = rules;
        self
    }

    /// The rules for the server.
    pub fn rules(&self) -> &ServerRules {
        &self.rules
    }

    /// Whether a model may run there.
    pub fn allows(&self, model: &ModelName) -> bool {
        self.rules.models.allow(model)
    }

    /// Sets a callback that runs after each probe, for example to close idle connections. Only the
    /// first call has an effect.
    pub fn after_probe(&self, act: impl Fn() + Send + Sync + 'static) {
        let _ = self.after_probe.set(Box::new(act));
    }

    /// Host and port, as shown in responses, logs and metrics.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The backend's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What is known of an OpenAI-compatible server; `None` for an Ollama.
    pub fn openai(&self) -> Option<&Arc<Server>> {
        self.openai.as_ref()
    }

    /// Whether an operator means it by `name`: the displayed name, or one that settings accept.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let configured = [self.address.configured()];
        *self.name == *name || !Address::called(&configured, name).is_empty()
    }

    /// Whether the last probe or connection succeeded.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Whether an operator has taken it out of the choice: no new request is routed there.
    pub fn is_cordoned(&self) -> bool {
        self.is_cordoned.load(Ordering::Relaxed)
    }

    /// Sets whether it is cordoned; returns whether it was.
    pub(super) fn set_cordoned(&self, is_cordoned: bool) -> bool {
        self.is_cordoned.swap(is_cordoned, Ordering::Relaxed)
    }

    /// Records whether the backend is up.
    pub fn set_up(&self, is_up: bool) {
        if self.is_up.swap(is_up, Ordering::Relaxed) == is_up {
            return;
        }
        if is_up {
            self.ups.fetch_add(1, Ordering::Relaxed);
            self.lacks_gauges.store(false, Ordering::Relaxed);
        }
        if !is_up {
            self.is_logged_up.store(false, Ordering::Relaxed);
            tracing::warn!(backend = %self.name, "the backend is down");
        }
    }

    /// Since when the server is down and does not respond at all: it refuses connections, or does not
    /// answer probes. One that answers a probe with an error responds.
    pub fn silent_since(&self) -> Option<Instant> {
        match self.is_up() {
            true => None,
            false => *self.silence(),
        }
    }

    /// Ready when the server falls silent after this call.
    pub(crate) fn falls_silent(&self) -> OwnedNotified {
        self.falls_silent.clone().notified_owned()
    }

    fn silence(&self) -> MutexGuard<'_, Option<Instant>> {
        let silence = self.silent_since.lock();
        silence.unwrap_or_else(PoisonError::into_inner)
    }

    /// Records whether the server is silent; call it after [`set_up`](Self::set_up).
    fn set_silent(&self, is_silent: bool) {
        let mut silence = self.silence();
        let begins = is_silent && silence.is_none();
        match is_silent {
            true => *silence = silence.or_else(|| Some(Instant::now())),
            false => *silence = None,
        }
        drop(silence);
        if begins {
            self.falls_silent.notify_waiters();
        }
    }

    /// What tells that the server was started again.
    pub(super) fn starts(&self) -> Starts {
        Starts {
            ups: self.ups.load(Ordering::Relaxed),
            closed: self.probe_client.get_ref().closed_by_backend().unwrap_or(0),
        }
    }

    /// Marks the backend as down if the error is a failure to connect. It is then the last choice
    /// until a probe succeeds.
    pub fn mark_unreachable(&self, error: &BoxError) {
        let cannot_connect = Failure::find(&**error).is_some_and(|failure| {
            failure.caused_by::<ConnectFailed>().is_some()
                || failure.caused_by::<ConnectTimeout>().is_some()
        });
        if cannot_connect && self.is_up() {
            self.set_up(false);
            self.set_silent(true);
            self.refused.notify_one();
        }
    }

    /// Logs once that the server compresses its responses, although no request accepts that.
    pub(crate) fn warn_if_compressed(&self, headers: &HeaderMap) {
        if is_compressed(headers) && !self.is_logged_compressed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                backend = %self.name,
                "the backend compresses its responses, although it is asked not to: their tokens are only estimated, \
                 aliases in them are not replaced, and streams that break off get no error line; turn off the \
                 compression of the server, or of the proxy in front of it"
            );
        }
    }

    /// The version that the server had when it came up last; `None` if it did not say.
    pub fn version(&self) -> Option<Arc<str>> {
        let version = self.version.lock();
        version.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Once after the backend came up: reads its version, with the time-out `limit`, and logs it
    /// with the models.
    pub(super) async fn log_when_up(&self, models: &[Installed], limit: Duration) {
        if !self.is_up() || self.is_logged_up.swap(true, Ordering::Relaxed) {
            return;
        }
        let version: Option<Arc<str>> = self.read_version(limit).await.map(Arc::from);
        let known = self.version.lock();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&version);
        let names = models.iter().take(MOST_NAMES_LOGGED);
        let mut names: Vec<_> = names.map(|model| model.name.to_string()).collect();
        if models.len() > MOST_NAMES_LOGGED {
            names.push(format!("and {} more", models.len() - MOST_NAMES_LOGGED));
        }
        tracing::info!(
            backend = %self.name,
            version = version.as_deref().unwrap_or("unknown"),
            models = models.len(),
            names = names.join(", "),
            "the backend is up"
        );
    }

    /// Waits until the backend refuses a connection although it counts as up.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    fn keep_list(&self, path: &'static str, page: Bytes) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|(known, ..)| *known != path);
        lists.push((path, page, Instant::now()));
    }

    /// The list that the server has sent last on this path, if it is no older than 15 s. It is read by
    /// each probe, and by clients' requests for lists.
    pub(crate) fn last_list(&self, path: &str) -> Option<Bytes> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, page, at) = lists.iter().find(|(known, ..)| *known == path)?;
        (at.elapsed() <= FRESH_LIST).then(|| page.clone())
    }

    /// Whether it has told how many requests it has, when it was asked last.
    pub(super) fn reports_load(&self) -> bool {
        self.has_gauges.load(Ordering::Relaxed)
    }
}
