//! One server, and the gateway's own requests to it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use llamatower_layers::body::ReplayBody;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::{BoxError, Fail, Failure, Side};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;
use tower::ServiceExt;

use super::inventory::{Installed, Resident};
use super::policy::ReportedLoad;
use super::preload::Starts;
use super::rules::ServerRules;
use crate::ollama::hygiene::{UNCOMPRESSED, is_compressed};
use crate::ollama::upstream::{
    Access, Address, ConnectFailed, ConnectTimeout, PoolLimits, ServerKind, Upstream,
};
use crate::openai::{Server, Translate, gauges};

/// The body of the gateway's own requests.
type ProbeBody = ReplayBody<Empty<Bytes>>;

/// Limit of a list's size. A list of a thousand models is about 500 kB.
const MAX_PAGE_BYTES: usize = 64 * 1024 * 1024;

/// The paths of the lists that probes read.
const LISTS: [&str; 2] = ["/api/tags", "/api/ps"];

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

    async fn read_version(&self, limit: Duration) -> Option<String> {
        #[derive(Deserialize)]
        struct Page {
            version: String,
        }
        let page = self.page("/api/version", limit).await.ok()?;
        let page: Page = serde_json::from_slice(&page).ok()?;
        Some(page.version)
    }

    /// Waits until the backend refuses a connection although it counts as up.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    /// Requests a page by GET; `limit` is the time-out of the whole exchange.
    ///
    /// # Errors
    /// No response with status 200 in time.
    pub async fn page(&self, path: &'static str, limit: Duration) -> Result<Bytes, Unreachable> {
        let answer = self.get(path, limit).await?;
        let advice = match answer.status() {
            StatusCode::OK => return Ok(answer.into_body()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; its token in LLAMATOWER_BACKEND_TOKENS is wrong or missing"
            }
            _ => "",
        };
        Err(self.unreachable(format!("{path} answered {}{advice}", answer.status())))
    }

    /// Sends a GET request and accepts any status; `limit` is the time-out of the whole exchange.
    ///
    /// # Errors
    /// No response in time.
    pub async fn get(
        &self,
        path: &'static str,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        let request = Request::get(path).body(ProbeBody::empty());
        let answer = self.exchange(request, path, limit).await?;
        if LISTS.contains(&path) && answer.status() == StatusCode::OK {
            self.keep_list(path, answer.body().clone());
        }
        Ok(answer)
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

    /// Sends a POST request with a JSON body, otherwise like [`get`](Self::get).
    ///
    /// # Errors
    /// No response in time.
    pub async fn post(
        &self,
        path: &'static str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        self.exchange(request.body(ProbeBody::from(body)), path, limit)
            .await
    }

    async fn exchange(
        &self,
        request: http::Result<Request<ProbeBody>>,
        path: &'static str,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        let fetched = async {
            let mut request = request?;
            request.headers_mut().insert(ACCEPT_ENCODING, UNCOMPRESSED);
            let answer = self.probe_client.clone().oneshot(request).await?;
            let (head, body) = answer.into_parts();
            let page = Limited::new(body, MAX_PAGE_BYTES).collect().await?;
            Ok(Response::from_parts(head, page.to_bytes()))
        };
        let fetched: Result<Result<_, BoxError>, _> = tokio::time::timeout(limit, fetched).await;
        match fetched {
            Ok(answer) => answer.map_err(|error| self.unreachable(error).silent()),
            Err(_) => {
                let late = format!("no response to {path} within {limit:?}");
                Err(self.unreachable(late).silent())
            }
        }
    }

    fn unreachable(&self, reason: impl fmt::Display) -> Unreachable {
        Unreachable::new(&self.name, reason)
    }

    /// Requests the installed models, and records whether the backend is up.
    ///
    /// # Errors
    /// No valid list in time.
    pub async fn probe(&self, limit: Duration) -> Result<Vec<Installed>, Unreachable> {
        let (found, health) = tokio::join!(self.models(limit), self.health(limit));
        let found = health.and(found);
        let failed_before = self.probe_failed.swap(found.is_err(), Ordering::Relaxed);
        match &found {
            Err(error) if failed_before => {
                tracing::debug!(backend = %self.name, %error, "the probe failed");
            }
            Err(error) => tracing::warn!(backend = %self.name, %error, "the probe failed"),
            Ok(_) => {}
        }
        self.set_up(found.is_ok());
        self.set_silent(found.as_ref().is_err_and(|error| error.is_silent));
        self.probe_client.get_ref().prune();
        if let Some(act) = self.after_probe.get() {
            act();
        }
        found
    }

    /// Asks an OpenAI-compatible server how it is. vLLM and llama.cpp answer 503 while they load a
    /// model or after their engine has failed; others have no such page, or protect it. Only the list
    /// of models shows whether the server can be reached.
    ///
    /// # Errors
    /// The page has the status of a server's error.
    async fn health(&self, limit: Duration) -> Result<(), Unreachable> {
        if self.openai.is_none() {
            return Ok(());
        }
        let Ok(answer) = self.get("/health", limit).await else {
            return Ok(());
        };
        let status = answer.status();
        match status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            true => {
                let text = crate::openai::error::text_of(answer.body());
                Err(self.unreachable(format!("/health answered {status}: {text}")))
            }
            false => Ok(()),
        }
    }

    /// Asks an OpenAI-compatible server how many requests it has; `None` if it does not tell. One
    /// without such a page is not asked again until it has come up again.
    pub(super) async fn reported_load(&self, limit: Duration) -> Option<ReportedLoad> {
        if self.openai.is_none() || self.lacks_gauges.load(Ordering::Relaxed) {
            return None;
        }
        let answer = self.get("/metrics", limit).await.ok()?;
        let (status, page) = (answer.status(), String::from_utf8_lossy(answer.body()));
        let lacks = match status {
            // LM Studio answers an unknown path like that.
            StatusCode::OK => !gauges::is_page(&page),
            // llama.cpp without `--metrics`.
            StatusCode::NOT_IMPLEMENTED => true,
            status => !status.is_server_error(),
        };
        self.lacks_gauges.store(lacks, Ordering::Relaxed);
        let load = (status == StatusCode::OK).then(|| gauges::read(&page))?;
        self.has_gauges.store(load.is_some(), Ordering::Relaxed);
        load
    }

    /// Whether it has told how many requests it has, when it was asked last.
    pub(super) fn reports_load(&self) -> bool {
        self.has_gauges.load(Ordering::Relaxed)
    }

    /// The installed models, from `/api/tags`.
    ///
    /// # Errors
    /// No valid list in time.
    pub async fn models(&self, limit: Duration) -> Result<Vec<Installed>, Unreachable> {
        let page = self.page("/api/tags", limit).await?;
        Installed::read_list(&page).map_err(|error| {
            self.unreachable(format!(
                "the response to /api/tags is not a list of models: {error}"
            ))
        })
    }

    /// The models in memory, from `/api/ps`. `None` if the server has no such list: it is not an
    /// Ollama, or an old one.
    ///
    /// # Errors
    /// No response in time, or a status other than 200, 404 and 405.
    pub async fn resident(&self, limit: Duration) -> Result<Option<Vec<Resident>>, Unreachable> {
        const PATH: &str = "/api/ps";
        let answer = self.get(PATH, limit).await?;
        match answer.status() {
            StatusCode::OK => Ok(Resident::read_list(answer.body()).ok()),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            status => Err(self.unreachable(format!("{PATH} answered {status}"))),
        }
    }
}

/// A backend did not answer one of the gateway's own requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no valid response from the backend {backend}: {reason}")]
pub struct Unreachable {
    backend: Box<str>,
    reason: String,
    /// It did not respond at all.
    is_silent: bool,
}

impl Unreachable {
    pub(super) fn new(backend: &str, reason: impl fmt::Display) -> Self {
        Self {
            backend: backend.into(),
            reason: reason.to_string(),
            is_silent: false,
        }
    }

    fn silent(mut self) -> Self {
        self.is_silent = true;
        self
    }

    /// The reason, without the backend's name.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Fail for Unreachable {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "backend_unreachable"
    }
}
