//! Loads that the gateway begins itself: the request that loads a model and generates nothing, and
//! what the policy learns from it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use llamatower_layers::ModelName;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::Fleet;
use super::backend::Backend;
use super::flight::Flight;
use super::inventory::Installed;
use super::member::Member;
use super::policy::{Grant, Phases, Report};

const GENERATE: &str = "/api/generate";
const EMBED: &str = "/api/embed";

/// How long a model that the gateway loads stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// For the server's own `keep_alive`.
    Usual,
    /// Until it is unloaded.
    Pinned,
}

/// Why a model was not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotLoaded {
    /// Another gateway loads a model on the server.
    LoadsElsewhere,
    /// What the server said, and what to do.
    Failed(String),
}

impl<S> Fleet<S> {
    /// Loads a model on a server, and tells the policy, which has given the `grant`. Returns the time
    /// of the load.
    ///
    /// # Errors
    /// Another gateway loads it, or what the server said, and what to do.
    pub(super) async fn load_now(
        &self,
        member: &Arc<Member<S>>,
        model: &ModelName,
        stay: Stay,
        grant: Option<Grant>,
    ) -> Result<Duration, NotLoaded> {
        let flight = grant.map(|grant| Flight::new(model.clone(), grant, self.router.clone()));
        if let Some(flight) = &flight
            && !self.begins_own_load(flight, member).await
        {
            // The policy has counted the models that it unloads.
            member.refresh_resident();
            return Err(NotLoaded::LoadsElsewhere);
        }
        let begun = Instant::now();
        let loaded = self.send_load(member, model, stay).await;
        if let (Ok(load), Some(flight)) = (&loaded, &flight) {
            flight.first_byte(Instant::now());
            flight.tell_loaded(member.backend.name());
            flight.complete(report(load.unwrap_or_else(|| begun.elapsed())));
        }
        drop(flight);
        member.refresh_resident();
        self.queue.slots_changed();
        loaded.map(|_| begun.elapsed()).map_err(NotLoaded::Failed)
    }

    /// The time of the load, if the server tells it.
    pub(super) async fn send_load(
        &self,
        member: &Arc<Member<S>>,
        model: &ModelName,
        stay: Stay,
    ) -> Result<Option<Duration>, String> {
        let Some(installed) = member.installed(model) else {
            return Err("it is not installed on this server any more".to_owned());
        };
        let _slot = member.take(None);
        let limit = self.config.load_timeout.unwrap_or(Duration::MAX);
        let backend = &member.backend;
        backend.load_model(&installed, stay, limit).await
    }
}

impl<S> Member<S> {
    /// The model on its disk.
    pub(super) fn installed(&self, model: &ModelName) -> Option<Installed> {
        let models = self.models();
        let mut models = models.iter();
        models.find(|installed| installed.name == *model).cloned()
    }
}

impl Backend {
    /// Loads a model. Returns the time of the load, if the server tells it. `limit` is the time-out.
    ///
    /// # Errors
    /// What the server said, and what to do.
    pub(super) async fn load_model(
        &self,
        model: &Installed,
        stay: Stay,
        limit: Duration,
    ) -> Result<Option<Duration>, String> {
        let can = |what: &str| model.capabilities.iter().any(|can| **can == *what);
        if can("embedding") && !can("completion") {
            return self.load_by(EMBED, model, stay, limit).await.1;
        }
        let (status, loaded) = self.load_by(GENERATE, model, stay, limit).await;
        // A model that only embeds, on a server that does not tell what a model can do.
        if status == Some(StatusCode::BAD_REQUEST) && model.capabilities.is_empty() {
            return self.load_by(EMBED, model, stay, limit).await.1;
        }
        loaded
    }

    async fn load_by(
        &self,
        path: &'static str,
        model: &Installed,
        stay: Stay,
        limit: Duration,
    ) -> (Option<StatusCode>, Result<Option<Duration>, String>) {
        let mut body = json!({ "model": model.name.to_string() });
        match path {
            // Without a text newer versions answer at once and load nothing.
            EMBED => body["input"] = json!("1"),
            _ => body["stream"] = json!(false),
        }
        if stay == Stay::Pinned {
            body["keep_alive"] = json!(-1);
        }
        let answer = self.post(path, Bytes::from(body.to_string()), limit).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let reason = error.reason();
                let told = format!(
                    "{reason}; see Ollama's log on that server, or raise LLAMATOWER_LOAD_TIMEOUT if the \
                     load takes longer"
                );
                return (None, Err(told));
            }
        };
        let status = answer.status();
        let result = match status {
            StatusCode::OK => Ok(load_duration(answer.body())),
            _ => Err(format!(
                "{path} answered {status}: {}; see Ollama's log on that server",
                error_text(answer.body())
            )),
        };
        (Some(status), result)
    }
}

/// What the policy learns from a load.
fn report(load: Duration) -> Report {
    Report {
        phases: Some(Phases {
            load,
            total: load,
            ..Phases::default()
        }),
        ..Report::default()
    }
}

/// The time of the load, in nanoseconds in the response.
fn load_duration(body: &[u8]) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Answer {
        load_duration: Option<u64>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    answer.load_duration.map(Duration::from_nanos)
}

/// The text of an error, at most 200 characters.
pub(super) fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
    }
    let text = match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => answer.error,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.trim().chars().take(200).collect()
}
