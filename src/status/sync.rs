//! The declared models of each server, and what is missing.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::seconds;
use crate::model_sync::{FailedPull, ServerState, SyncReport};

/// The sync of the declared models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct ModelsSync {
    /// Whether the gateway pulls declared models by itself. If not, the other fields are absent.
    pub is_on: bool,
    /// Its state.
    #[serde(flatten)]
    pub state: Option<SyncState>,
}

/// The state of the sync.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SyncState {
    /// The interval.
    pub every: f64,
    /// The servers with declared models.
    pub servers: Vec<SyncedServer>,
}

/// The declared models of one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct SyncedServer {
    /// The server.
    pub name: String,
    /// `waiting`, `pulling`, `failed` or `in_sync`.
    pub state: String,
    /// When its models were compared last.
    pub compared_at: Option<String>,
    /// The model that is pulled now.
    pub pulling: Option<String>,
    /// The models that were pulled last.
    pub pulled: Vec<PulledModel>,
    /// The models whose pulls failed.
    pub failed: Vec<FailedModel>,
}

/// A model that was pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct PulledModel {
    /// The model.
    pub model: String,
    /// When the pull ended.
    pub at: String,
}

/// A model whose pull failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct FailedModel {
    /// The model.
    pub model: String,
    /// The reason of the last failure.
    pub reason: String,
    /// The number of failures in a row.
    pub failures: u32,
    /// The time until the next pull.
    pub retry_in: f64,
}

impl ModelsSync {
    /// The state at the time `now`.
    pub fn new(report: &SyncReport, now: Instant) -> Self {
        let state = report.every.map(|every| SyncState {
            every: seconds(every),
            servers: report
                .servers
                .iter()
                .map(|(name, row)| SyncedServer::new(name, row, now))
                .collect(),
        });
        Self {
            is_on: state.is_some(),
            state,
        }
    }
}

impl SyncedServer {
    fn new(name: &str, row: &ServerState, now: Instant) -> Self {
        let pulled = row.pulled.iter().map(|(model, at)| PulledModel {
            model: model.to_string(),
            at: at.to_string(),
        });
        Self {
            name: name.to_owned(),
            state: row.name().to_owned(),
            compared_at: row.compared_at.map(|at| at.to_string()),
            pulling: row.pulling.as_ref().map(ToString::to_string),
            pulled: pulled.collect(),
            failed: row
                .failed
                .iter()
                .map(|pull| FailedModel::new(pull, now))
                .collect(),
        }
    }
}

impl FailedModel {
    fn new(pull: &FailedPull, now: Instant) -> Self {
        Self {
            model: pull.model.to_string(),
            reason: pull.reason.to_string(),
            failures: pull.failures,
            retry_in: seconds(pull.retry_at.saturating_duration_since(now)),
        }
    }
}
