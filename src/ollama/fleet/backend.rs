//! One Ollama server, as the gateway itself asks it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::{BoxError, Fail, Failure, Side};
use serde::Deserialize;
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::ollama::upstream::{
    Access, Address, ConnectFailed, ConnectTimeout, PoolLimits, Upstream,
};

/// A list of a thousand models is some 500 kB.
const MAX_PAGE_BYTES: usize = 64 * 1024 * 1024;

/// How many models are named in the log when a server comes up.
const MOST_NAMES_TOLD: usize = 20;

/// A model that a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub name: ModelName,
    /// What it is, whatever its name; empty if the server does not say.
    pub digest: Arc<str>,
}

/// One Ollama server: its name, whether it is up, and how the gateway asks it for lists.
pub struct Backend {
    name: Arc<str>,
    address: Address,
    /// Apart from the connections of requests, so that a probe never waits behind them.
    own_questions: Upstream<Full<Bytes>>,
    is_up: AtomicBool,
    /// Whether the log says so.
    is_told_up: AtomicBool,
    /// Whether the last probe failed, which is told once.
    probe_failed: AtomicBool,
    refused: Notify,
    after_probe: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

impl Backend {
    /// The backend at `address`; it counts as up until something says otherwise.
    pub fn new(address: Address, connect_timeout: Duration, access: &Access) -> Self {
        Self::with_state(address, connect_timeout, access, true)
    }

    /// The backend at `address`; it counts as down until it answers a probe.
    pub fn unproven(address: Address, connect_timeout: Duration, access: &Access) -> Self {
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
        Self {
            name: address.to_string().into(),
            own_questions: Upstream::with_access(address.clone(), connect_timeout, limits, access),
            address,
            is_up: AtomicBool::new(is_up),
            is_told_up: AtomicBool::new(false),
            probe_failed: AtomicBool::new(false),
            refused: Notify::new(),
            after_probe: OnceLock::new(),
        }
    }

    /// Has this done after each probe: idle connections of requests closed, say. The first one counts.
    pub fn after_probe(&self, act: impl Fn() + Send + Sync + 'static) {
        let _ = self.after_probe.set(Box::new(act));
    }

    /// Host and port, as they stand in answers, logs and metrics.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether it answered when it was last asked.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Notes that the backend answered, or that it could not be reached.
    pub fn note(&self, is_up: bool) {
        if self.is_up.swap(is_up, Ordering::Relaxed) == is_up {
            return;
        }
        if !is_up {
            self.is_told_up.store(false, Ordering::Relaxed);
            tracing::warn!(backend = %self.name, "the backend is down");
        }
    }

    /// Notes when a request could not connect: the backend is asked last from then on, and the next
    /// probe that it answers brings it back.
    pub fn note_error(&self, error: &BoxError) {
        let cannot_connect = Failure::find(&**error).is_some_and(|failure| {
            failure.caused_by::<ConnectFailed>().is_some()
                || failure.caused_by::<ConnectTimeout>().is_some()
        });
        if cannot_connect && self.is_up() {
            self.note(false);
            self.refused.notify_one();
        }
    }

    /// Says in the log that the backend is up, with its version and what it has, once each time that it
    /// comes up. Its version is asked for, for no longer than `limit`.
    pub(super) async fn tell_when_up(&self, models: &[Installed], limit: Duration) {
        if !self.is_up() || self.is_told_up.swap(true, Ordering::Relaxed) {
            return;
        }
        let version = self.version(limit).await;
        let names = models.iter().take(MOST_NAMES_TOLD);
        let mut names: Vec<_> = names.map(|model| model.name.to_string()).collect();
        if models.len() > MOST_NAMES_TOLD {
            names.push(format!("and {} more", models.len() - MOST_NAMES_TOLD));
        }
        tracing::info!(
            backend = %self.name,
            version = version.as_deref().unwrap_or("unknown"),
            models = models.len(),
            names = names.join(", "),
            "the backend is up"
        );
    }

    async fn version(&self, limit: Duration) -> Option<String> {
        #[derive(Deserialize)]
        struct Page {
            version: String,
        }
        let page = self.page("/api/version", limit).await.ok()?;
        let page: Page = serde_json::from_slice(&page).ok()?;
        Some(page.version)
    }

    /// Waits until it refuses a connection though it counts as up.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    /// Asks for a page by GET, with a limit on the whole exchange.
    ///
    /// # Errors
    /// The backend did not answer with a 200 in time.
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

    /// Asks by GET, with a limit on the whole exchange, and takes an answer of any status.
    ///
    /// # Errors
    /// The backend did not answer in time.
    pub async fn get(
        &self,
        path: &'static str,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        self.exchange(Request::get(path).body(Full::default()), path, limit)
            .await
    }

    /// Asks by POST with a JSON body, otherwise like [`get`](Self::get).
    ///
    /// # Errors
    /// The backend did not answer in time.
    pub async fn post(
        &self,
        path: &'static str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        self.exchange(request.body(Full::new(body)), path, limit)
            .await
    }

    async fn exchange(
        &self,
        request: http::Result<Request<Full<Bytes>>>,
        path: &'static str,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        let fetched = async {
            let answer = self.own_questions.clone().oneshot(request?).await?;
            let (head, body) = answer.into_parts();
            let page = Limited::new(body, MAX_PAGE_BYTES).collect().await?;
            Ok(Response::from_parts(head, page.to_bytes()))
        };
        let fetched: Result<Result<_, BoxError>, _> = tokio::time::timeout(limit, fetched).await;
        match fetched {
            Ok(answer) => answer.map_err(|error| self.unreachable(error)),
            Err(_) => Err(self.unreachable(format!("{path} gave no answer within {limit:?}"))),
        }
    }

    fn unreachable(&self, reason: impl fmt::Display) -> Unreachable {
        Unreachable::new(&self.name, reason)
    }

    /// Asks for the installed models and notes whether the backend is up.
    ///
    /// # Errors
    /// It gave no list in time.
    pub async fn probe(&self, limit: Duration) -> Result<Vec<Installed>, Unreachable> {
        let found = self.models("/api/tags", limit).await;
        let failed_before = self.probe_failed.swap(found.is_err(), Ordering::Relaxed);
        match &found {
            Err(error) if failed_before => {
                tracing::debug!(backend = %self.name, %error, "a probe failed");
            }
            Err(error) => tracing::warn!(backend = %self.name, %error, "a probe failed"),
            Ok(_) => {}
        }
        self.note(found.is_ok());
        self.own_questions.prune();
        if let Some(act) = self.after_probe.get() {
            act();
        }
        found
    }

    /// The models in memory.
    ///
    /// # Errors
    /// It gave no list in time.
    pub async fn loaded_models(&self, limit: Duration) -> Result<Vec<ModelName>, Unreachable> {
        let loaded = self.models("/api/ps", limit).await?;
        Ok(loaded.into_iter().map(|model| model.name).collect())
    }

    /// The models of a list: those that are installed at `/api/tags`, those in memory at `/api/ps`.
    ///
    /// # Errors
    /// It gave no list in time.
    pub async fn models(
        &self,
        path: &'static str,
        limit: Duration,
    ) -> Result<Vec<Installed>, Unreachable> {
        #[derive(Deserialize)]
        struct Page {
            models: Option<Vec<Row>>,
        }
        #[derive(Deserialize)]
        struct Row {
            name: String,
            #[serde(default)]
            digest: String,
        }
        let page = self.page(path, limit).await?;
        let page: Page = serde_json::from_slice(&page)
            .map_err(|error| self.unreachable(format!("{path} is no list of models: {error}")))?;
        let rows = page.models.unwrap_or_default().into_iter();
        Ok(rows
            .filter_map(|row| {
                Some(Installed {
                    name: ModelName::parse(&row.name).ok()?,
                    digest: row.digest.into(),
                })
            })
            .collect())
    }
}

/// A backend did not answer a question of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backend {backend} gave no answer: {reason}")]
pub struct Unreachable {
    backend: Box<str>,
    reason: String,
}

impl Unreachable {
    pub(super) fn new(backend: &str, reason: impl fmt::Display) -> Self {
        Self {
            backend: backend.into(),
            reason: reason.to_string(),
        }
    }

    /// Why, without the name of the backend.
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
