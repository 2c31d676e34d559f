//! The models of all backends, and where they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ollama::fleet::{BackendStatus, Drift};

/// The document `/status/models`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Models {
    /// The models, by name.
    pub models: Vec<ModelRow>,
    /// All backends.
    pub servers: Vec<ServerName>,
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct ModelRow {
    /// Its name.
    pub model: String,
    /// The name stands for different models on different backends.
    pub digests_differ: bool,
    /// The backends that have it.
    pub servers: Vec<Holder>,
}

/// A backend that has a model on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Holder {
    /// The backend.
    pub name: String,
    /// The size on disk, in bytes; 0 if it is not known.
    pub size: u64,
    /// The digest; empty if it is not known.
    pub digest: String,
    /// Whether it is in memory there.
    pub is_in_memory: bool,
}

/// A backend, as a target of commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct ServerName {
    /// Its name.
    pub name: String,
    /// Whether it answers the gateway's probes.
    pub is_up: bool,
    /// Whether an operator has taken it out of the choice.
    pub is_cordoned: bool,
    /// Whether it is an Ollama, whose models can be managed.
    pub is_ollama: bool,
}

impl Models {
    /// The document for these backends.
    pub fn new(backends: &[BackendStatus], drifts: &[Drift]) -> Self {
        let mut models: BTreeMap<String, Vec<Holder>> = BTreeMap::new();
        for backend in backends {
            let resident = backend.resident.as_deref().unwrap_or_default();
            for model in &*backend.models_on_disk {
                let holders = models.entry(model.name.to_string()).or_default();
                holders.push(Holder {
                    name: backend.name.to_string(),
                    size: model.size,
                    digest: model.digest.to_string(),
                    is_in_memory: resident.iter().any(|row| row.name == model.name),
                });
            }
        }
        let differing: Vec<String> = drifts.iter().map(|drift| drift.model.to_string()).collect();
        let rows = models.into_iter().map(|(model, servers)| ModelRow {
            digests_differ: differing.contains(&model),
            model,
            servers,
        });
        let servers = backends.iter().map(|backend| ServerName {
            name: backend.name.to_string(),
            is_up: backend.is_up,
            is_cordoned: backend.is_cordoned,
            is_ollama: backend.is_ollama,
        });
        Self {
            models: rows.collect(),
            servers: servers.collect(),
        }
    }
}
