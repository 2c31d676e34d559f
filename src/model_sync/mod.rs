//! Keeps the declared models (`[models]` in the file) installed.
//!
//! `llamatower models sync` and the gateway itself compare the declaration with what is installed in
//! the same way. The gateway does so at an interval, and when a server comes up, and pulls what is
//! missing: one model at a time on each server. It deletes nothing.

mod difference;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use llamatower_layers::ModelName;
use llamatower_layers::live::Live;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use difference::Difference;
pub use status::{FailedPull, ServerState, SyncReport, SyncStatus};

use crate::ollama::ServerService;
use crate::ollama::everywhere::{Event, pull_on};
use crate::ollama::fleet::{Fleet, Managed};
use crate::settings::{DeclaredModels, Settings};
use crate::telemetry::Metrics;

/// How often the task looks whether a server is due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A pull that sends nothing for so long has failed. Ollama is silent while it verifies a download,
/// which takes minutes for the largest models.
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);

/// What the task keeps, and how often it looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncRules {
    /// The interval; `None` if the task does nothing.
    pub every: Option<Duration>,
    /// The models that servers are to have.
    pub declared: Arc<DeclaredModels>,
}

impl SyncRules {
    /// The rules in the settings. Without declared models the sync is off.
    pub fn new(settings: &Settings) -> Self {
        let declared = settings.declared.clone();
        let every = settings.backends.models_sync;
        Self {
            every: every.filter(|_| !declared.is_empty()),
            declared,
        }
    }
}

/// The task that keeps the declared models installed.
pub struct ModelSync<S> {
    fleet: Arc<Fleet<S>>,
    rules: Live<SyncRules>,
    status: SyncStatus,
    metrics: Arc<Metrics>,
}

impl<S> ModelSync<S> {
    /// A task for the servers of `fleet`, which reads the current rules for each step.
    pub fn new(
        fleet: Arc<Fleet<S>>,
        rules: Live<SyncRules>,
        status: SyncStatus,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            fleet,
            rules,
            status,
            metrics,
        }
    }

    /// Compares and pulls for ever. Dropping the future cancels the pulls; Ollama keeps what it has
    /// loaded. `B` is the body of requests.
    pub async fn run<B>(self)
    where
        S: ServerService<B>,
        B: From<Bytes> + Send + 'static,
    {
        let mut known = SyncRules::default();
        let mut repairs = FuturesUnordered::new();
        loop {
            let rules = self.rules.get().clone();
            if rules != known {
                self.status.begin(rules.every);
                known = rules.clone();
            }
            if rules.every.is_some() {
                for server in self.due() {
                    repairs.push(self.repair::<B>(server));
                }
            }
            tokio::select! {
                Some(()) = repairs.next() => {}
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// The servers to compare now.
    fn due(&self) -> Vec<Managed<S>> {
        let mut servers = self.fleet.managed();
        let names: Vec<_> = servers.iter().map(|server| server.name().clone()).collect();
        self.status.keep(&names);
        servers.retain(|server| {
            let (is_ready, ups) = (server.is_ready(), server.ups());
            self.status.begin_if_due(server.name(), is_ready, ups)
        });
        servers
    }

    /// Pulls what is missing on a server, one model after the other.
    async fn repair<B>(&self, server: Managed<S>)
    where
        S: ServerService<B>,
        B: From<Bytes> + Send + 'static,
    {
        let name = server.name();
        // Not pulled twice if the server lists it under another name.
        let mut done: Vec<ModelName> = Vec::new();
        let every = loop {
            // The server may have been replaced since the last probe.
            self.fleet.refreshed().await;
            let rules = self.rules.get().clone();
            let Some(every) = rules.every.filter(|_| server.is_ready()) else {
                break rules.every.unwrap_or_default();
            };
            let installed = server.installed();
            let is_called = |name: &str| server.is_called(name);
            let mut found = Difference::of(&rules.declared, is_called, &installed);
            found.missing.retain(|model| !done.contains(model));
            let Some(model) = self.status.compared(name, &found.missing) else {
                break every;
            };
            tracing::info!(backend = %name, %model, "a declared model is missing; it is pulled");
            let begun = Instant::now();
            match pulled::<S, B>(&server, &model).await {
                Ok(()) => {
                    self.status.note_pulled(name, &model);
                    self.metrics.pulled_by_sync(name, "done");
                    let seconds = begun.elapsed().as_secs_f64();
                    tracing::info!(backend = %name, %model, seconds, "a declared model was pulled");
                    done.push(model);
                }
                Err(reason) => {
                    let pause = self.status.note_failed(name, &model, &reason, every);
                    self.metrics.pulled_by_sync(name, "failed");
                    let retry_in = pause.as_secs_f64();
                    tracing::warn!(
                        backend = %name, %model, reason, retry_in,
                        "a declared model could not be pulled"
                    );
                }
            }
        };
        self.status.end(name, every);
    }
}

/// Pulls a model, and waits for the end.
async fn pulled<S, B>(server: &Managed<S>, model: &ModelName) -> Result<(), String>
where
    S: ServerService<B>,
    B: From<Bytes> + Send + 'static,
{
    let events = pull_on::<S, B>(server, model);
    let mut events = events.map_err(|error| error.to_string())?;
    loop {
        match timeout(LONGEST_SILENCE, events.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Event::Line(_))) => {}
            Ok(Some(Event::Failed(reason))) => return Err(reason),
            Err(_) => return Err(format!("it sent nothing for {LONGEST_SILENCE:?}")),
        }
    }
}

impl<S> fmt::Debug for ModelSync<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSync")
            .field("rules", &self.rules)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
