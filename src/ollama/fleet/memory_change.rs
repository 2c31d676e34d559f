//! Models that an operator loads and unloads on one server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use llamatower_layers::ModelName;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::Fleet;
use super::load_request::{NotLoaded, Stay, error_text};
use super::member::Member;
use super::policy::{Grant, OwnLoad};

/// How often a busy server is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The time for a busy server to become free for a load.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time-out of an unload, which Ollama answers at once.
const UNLOAD_LIMIT: Duration = Duration::from_secs(10);

/// What changes in the memory of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryChange {
    /// The model is loaded, with the server's own `keep_alive`.
    Load,
    /// The model is unloaded, after the requests that run it.
    Unload,
}

/// Why a model was not loaded or unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryChangeFailed {
    /// No server has this name.
    #[error("there is no such backend")]
    NoBackend,
    /// The server has no list of models in memory.
    #[error("this backend is no Ollama: its models are loaded and unloaded there")]
    NoOllama,
    /// The server is down.
    #[error("the backend is down")]
    Down,
    /// The model is not on the server's disk.
    #[error("the model is not installed on this backend; pull it there first")]
    NotInstalled,
    /// The settings keep the model in memory.
    #[error("LLAMATOWER_PINNED_MODELS keeps this model in memory; remove it there first")]
    Pinned,
    /// The server was busy all the time.
    #[error(
        "the backend was busy for {} s, and a load would have disturbed its clients; cordon it first, or \
         try again later",
        PATIENCE.as_secs()
    )]
    Busy,
    /// It does not fit beside models that the settings keep in memory.
    #[error("it does not fit into memory beside {0}, which the settings keep there")]
    NoRoom(String),
    /// The gateway ends.
    #[error("the gateway is about to end")]
    Draining,
    /// The server failed.
    #[error("{0}")]
    Failed(String),
}

impl<S> Fleet<S> {
    /// Loads or unloads a model on the server with this name. A load waits up to 30 s until it
    /// disturbs no client. Returns the time that it took; loading a model that is in memory takes
    /// none.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn change_memory(
        &self,
        backend: &str,
        model: &ModelName,
        change: MemoryChange,
    ) -> Result<Duration, MemoryChangeFailed> {
        let member = self.member_named(backend);
        let member = &member.ok_or(MemoryChangeFailed::NoBackend)?;
        if member.backend.openai().is_some() {
            return Err(MemoryChangeFailed::NoOllama);
        }
        if !member.backend.is_up() {
            return Err(MemoryChangeFailed::Down);
        }
        let begun = Instant::now();
        match change {
            MemoryChange::Load => self.load_for_operator(member, model).await?,
            MemoryChange::Unload => self.unload_for_operator(member, model).await?,
        }
        tracing::info!(backend, %model, ?change, "an operator has changed the memory of a backend");
        Ok(begun.elapsed())
    }

    fn member_named(&self, backend: &str) -> Option<Arc<Member<S>>> {
        let members = self.catalogue.members();
        let mut all = members.all().iter();
        all.find(|member| **member.backend.name() == *backend)
            .cloned()
    }

    async fn load_for_operator(
        &self,
        member: &Arc<Member<S>>,
        model: &ModelName,
    ) -> Result<(), MemoryChangeFailed> {
        if member.installed(model).is_none() {
            return Err(MemoryChangeFailed::NotInstalled);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let begun = timeout_at(deadline, self.begin_for_operator(member, model)).await;
            let grant = match begun.map_err(|_| MemoryChangeFailed::Busy)?? {
                Begun::Load(grant) => Some(grant),
                Begun::LoadUnseen => None,
                Begun::InMemory => return Ok(()),
            };
            match self.load_now(member, model, Stay::Usual, grant).await {
                Ok(_) => return Ok(()),
                Err(NotLoaded::Failed(reason)) => return Err(MemoryChangeFailed::Failed(reason)),
                Err(NotLoaded::LoadsElsewhere) => sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Waits until the policy allows the load.
    async fn begin_for_operator(
        &self,
        member: &Member<S>,
        model: &ModelName,
    ) -> Result<Begun, MemoryChangeFailed> {
        let kept = member.backend.rules().pinned();
        loop {
            if self.is_draining() {
                return Err(MemoryChangeFailed::Draining);
            }
            let now = Instant::now();
            let begun = self
                .router
                .change(|policy| policy.begin_own_load(member.id, model, &kept, now));
            match begun {
                OwnLoad::Begin(grant) => return Ok(Begun::Load(grant)),
                OwnLoad::InMemory => return Ok(Begun::InMemory),
                OwnLoad::Unknown => return Ok(Begun::LoadUnseen),
                OwnLoad::Later => sleep(LOOK_AGAIN).await,
                OwnLoad::NoRoom(others) => {
                    let others: Vec<_> = others.iter().map(ToString::to_string).collect();
                    return Err(MemoryChangeFailed::NoRoom(others.join(", ")));
                }
            }
        }
    }

    async fn unload_for_operator(
        &self,
        member: &Member<S>,
        model: &ModelName,
    ) -> Result<(), MemoryChangeFailed> {
        if member.backend.rules().pinned().contains(model) {
            return Err(MemoryChangeFailed::Pinned);
        }
        let body = json!({ "model": model.to_string(), "keep_alive": 0, "stream": false });
        let answer = member
            .backend
            .post("/api/generate", Bytes::from(body.to_string()), UNLOAD_LIMIT)
            .await
            .map_err(|error| MemoryChangeFailed::Failed(error.reason().to_owned()))?;
        match answer.status() {
            StatusCode::OK => member.residency.note_unloaded(model),
            StatusCode::NOT_FOUND => return Err(MemoryChangeFailed::NotInstalled),
            status => {
                let text = error_text(answer.body());
                let told = format!("the backend answered {status}: {text}");
                return Err(MemoryChangeFailed::Failed(told));
            }
        }
        Ok(())
    }
}

/// How a load begins.
enum Begun {
    Load(Grant),
    /// The server does not tell what is in its memory: without the policy.
    LoadUnseen,
    InMemory,
}
