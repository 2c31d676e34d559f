//! `/status/models`: the models of all servers, and where they are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::ollama::fleet::{BackendStatus, Drift};

/// The content. Sizes are in bytes.
pub(super) fn page(backends: &[BackendStatus], drifts: &[Drift]) -> Value {
    let mut models: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for backend in backends {
        let resident = backend.resident.as_deref().unwrap_or_default();
        for model in &*backend.models_on_disk {
            let is_in_memory = resident.iter().any(|row| row.name == model.name);
            models
                .entry(model.name.to_string())
                .or_default()
                .push(json!({
                    "name": *backend.name,
                    "size": model.size,
                    "digest": *model.digest,
                    "is_in_memory": is_in_memory,
                }));
        }
    }
    let differing: Vec<String> = drifts.iter().map(|drift| drift.model.to_string()).collect();
    let rows = models.into_iter().map(|(model, servers)| {
        json!({
            "digests_differ": differing.contains(&model),
            "model": model,
            "servers": servers,
        })
    });
    let servers = backends.iter().map(|backend| {
        json!({
            "name": *backend.name,
            "is_up": backend.is_up,
            "is_cordoned": backend.is_cordoned,
            "is_ollama": backend.is_ollama,
        })
    });
    json!({
        "models": rows.collect::<Value>(),
        "servers": servers.collect::<Value>(),
    })
}
