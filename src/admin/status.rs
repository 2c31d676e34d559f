//! `/status`: the state of each backend and queue.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cloud::CloudStatus;
use crate::model_sync::SyncReport;
use crate::ollama::fleet::{
    Avoided, Drift, MemoryStatus, ModelStatus, Occupancy, PreloadStatus, Resident,
};
use crate::telemetry::FleetView;

/// The content. Durations are in seconds.
pub(super) fn page(
    fleet: &dyn FleetView,
    in_cloud: Option<&CloudStatus>,
    models_sync: &SyncReport,
) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let backends = fleet.status().into_iter().map(|backend| {
        json!({
            "name": *backend.name,
            "is_up": backend.is_up,
            "is_cordoned": backend.is_cordoned,
            "version": backend.version.as_deref(),
            "installed": backend.installed,
            "resident": backend.resident.as_ref().map(|rows| rows.iter().map(resident).collect::<Value>()),
            "breaker": backend.breaker.name(),
            "in_flight": backend.in_flight,
            "reported": backend.reported.map(|load| json!({
                "running": load.running,
                "waiting": load.waiting,
                "of_others": backend.in_flight_of_others,
            })),
            "slots": backend.slots,
            "models": backend.models.iter().map(model).collect::<Value>(),
            "memory": backend.memory.as_ref().map(memory),
            "preloads": backend.preloads.iter().map(preload).collect::<Value>(),
            "max_in_flight": backend.rules.max_in_flight,
            "weight": backend.rules.weight,
            "labels": backend.rules.labels.iter().map(|label| &**label).collect::<Value>(),
            "avoided": backend.avoided.iter().map(avoided).collect::<Value>(),
        })
    });
    let queue = fleet.queue_status().into_iter().map(|row| {
        json!({
            "model": *row.model,
            "waiting": row.waiting,
            "in_flight": row.in_flight,
            "oldest": seconds(row.oldest),
            "predicted_wait": seconds(row.predicted_wait),
        })
    });
    json!({
        "backends": backends.collect::<Value>(),
        "queue": queue.collect::<Value>(),
        "digests_differ": fleet.drifts().iter().map(drift).collect::<Value>(),
        "cloud": cloud(in_cloud),
        "models_sync": sync(models_sync),
    })
}

/// The declared models; `every` and `retry_in` are in seconds.
fn sync(report: &SyncReport) -> Value {
    let Some(every) = report.every else {
        return json!({ "is_on": false });
    };
    let now = Instant::now();
    let servers = report.servers.iter().map(|(name, row)| {
        let pulled = row
            .pulled
            .iter()
            .map(|(model, at)| json!({ "model": model.to_string(), "at": at.to_string() }));
        let failed = row.failed.iter().map(|failed| {
            json!({
                "model": failed.model.to_string(),
                "reason": *failed.reason,
                "failures": failed.failures,
                "retry_in": failed.retry_at.saturating_duration_since(now).as_secs_f64(),
            })
        });
        json!({
            "name": **name,
            "state": row.name(),
            "compared_at": row.compared_at.map(|at| at.to_string()),
            "pulling": row.pulling.as_ref().map(ToString::to_string),
            "pulled": pulled.collect::<Value>(),
            "failed": failed.collect::<Value>(),
        })
    });
    json!({
        "is_on": true,
        "every": every.as_secs_f64(),
        "servers": servers.collect::<Value>(),
    })
}

/// The cloud service; `rests_for` is in seconds, and null while it gets requests.
fn cloud(status: Option<&CloudStatus>) -> Value {
    let Some(cloud) = status else {
        return json!({ "is_on": false });
    };
    json!({
        "is_on": true,
        "address": cloud.address,
        "when": cloud.when,
        "rests_for": cloud.rests_for.map(|rest| rest.as_secs_f64()),
        "tokens_today": cloud.tokens_today,
        "tokens_limit": cloud.tokens_limit,
    })
}

/// A model in a backend's memory; sizes are in bytes.
fn resident(row: &Resident) -> Value {
    json!({
        "model": row.name.to_string(),
        "size": row.size,
        "size_vram": row.size_vram,
        "context_length": row.context_length,
        "expires_at": row.expires_at.map(|time| time.to_string()),
    })
}

/// A model that is in a backend's memory or has requests there.
fn model(row: &ModelStatus) -> Value {
    json!({
        "model": row.model.to_string(),
        "residency": row.residency.name(),
        "in_flight": row.in_flight,
        "limit": row.slots.limit,
        "slots": row.slots.known,
        "slots_source": row.slots.source.name(),
        "prompt_tokens_per_second": row.prompt_rate,
        "output_tokens_per_second": row.output_rate,
        "load_seconds": row.load_seconds,
        "rests_for": row.rests_for,
    })
}

/// A model that the gateway loads by itself.
fn preload(row: &PreloadStatus) -> Value {
    json!({
        "model": row.model.to_string(),
        "pinned": row.is_pinned,
        "state": row.state.to_string(),
    })
}

/// What a backend's memory was seen to hold; sizes are in bytes.
fn memory(memory: &MemoryStatus) -> Value {
    let occupancy = |row: &Occupancy| json!({ "models": row.models, "bytes": row.bytes });
    json!({
        "held": occupancy(&memory.held),
        "did_not_fit": memory.did_not_fit.as_ref().map(occupancy),
    })
}

/// A name that stands for different models, and the backends that have each of them.
fn drift(drift: &Drift) -> Value {
    let digests = drift.digests.iter().map(|(digest, backends)| {
        let backends = backends.iter().map(|name| &**name);
        (digest.to_string(), backends.collect::<Value>())
    });
    let digests: serde_json::Map<_, _> = digests.collect();
    json!({ "model": drift.model.to_string(), "digests": digests })
}

/// Why a backend is avoided for a model; the time until the next trial is in seconds.
fn avoided(row: &Avoided) -> Value {
    json!({
        "model": row.model.to_string(),
        "reason": row.reason.name(),
        "failures": row.failures,
        "trial_in": row.trial_in.as_secs_f64(),
    })
}
