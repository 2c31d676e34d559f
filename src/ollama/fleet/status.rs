//! What operators see of the fleet.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::breaker::State;
use tokio::time::Instant;

use super::{
    Avoided, Decision, Drift, Fleet, Installed, MemoryStatus, ModelStatus, PreloadStatus,
    ReportedLoad, Resident, ServerRules,
};

/// The status of one backend.
#[derive(Clone, Debug)]
pub struct BackendStatus {
    /// Its name: host and port.
    pub name: Arc<str>,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether an operator has taken it out of the choice.
    pub is_cordoned: bool,
    /// The version of its Ollama, as read when it came up.
    pub version: Option<Arc<str>>,
    /// The number of models on its disk.
    pub installed: usize,
    /// The models on its disk.
    pub models_on_disk: Arc<[Installed]>,
    /// Whether it is an Ollama, whose models can be managed.
    pub is_ollama: bool,
    /// The models in its memory; `None` if they are not known.
    pub resident: Option<Arc<[Resident]>>,
    /// Requests of this gateway in flight.
    pub in_flight: usize,
    /// Its requests by its own count; `None` if it does not tell.
    pub reported: Option<ReportedLoad>,
    /// Those of them that are not of this gateway.
    pub in_flight_of_others: u32,
    /// The rules for it.
    pub rules: ServerRules,
    /// The configured limit of concurrent requests for one model.
    pub slots: Option<NonZeroUsize>,
    /// The models that are in its memory or have requests, by name.
    pub models: Vec<ModelStatus>,
    /// What its memory was seen to hold; `None` if it does not list the models in it.
    pub memory: Option<MemoryStatus>,
    /// The models that the gateway loads there by itself.
    pub preloads: Arc<[PreloadStatus]>,
    /// State of its circuit breaker.
    pub breaker: State,
    /// The models for which it is avoided, by name.
    pub avoided: Vec<Avoided>,
}

/// The status of the queue for one model.
#[derive(Clone, Debug)]
pub struct QueueStatus {
    /// The model.
    pub model: Arc<str>,
    /// Number of waiting requests.
    pub waiting: usize,
    /// Number of requests in flight.
    pub in_flight: usize,
    /// The longest wait so far among the waiting requests.
    pub oldest: Option<Duration>,
    /// The predicted wait of one more request, from recent service times.
    pub predicted_wait: Option<Duration>,
}

impl<S> Fleet<S> {
    /// The status of all backends.
    pub fn status(&self) -> Vec<BackendStatus> {
        let (members, now) = (self.catalogue.members(), Instant::now());
        let mut known = self.router.change(|policy| policy.snapshot(now));
        let rows = members.all().iter().map(|member| {
            let mut known = known.remove(&member.id).unwrap_or_default();
            known.models.sort_by_cached_key(|row| row.model.to_string());
            BackendStatus {
                name: member.backend.name().clone(),
                is_up: member.backend.is_up(),
                is_cordoned: member.backend.is_cordoned(),
                version: member.backend.version(),
                installed: member.models().len(),
                models_on_disk: member.models(),
                is_ollama: member.backend.openai().is_none(),
                resident: member.resident(),
                in_flight: member.in_flight(),
                reported: known.outside.reported,
                in_flight_of_others: known.outside.others,
                rules: member.backend.rules().clone(),
                slots: member.slots.count(),
                models: known.models,
                memory: known.memory,
                preloads: member.preloads.status(),
                breaker: member.breaker.state(),
                avoided: member.outliers.avoided(now),
            }
        });
        rows.collect()
    }

    /// The last 100 choices of a backend for a request that runs a model, the latest first.
    pub fn decisions(&self) -> Vec<Decision> {
        self.router.change(|policy| policy.decisions())
    }

    /// The models that differ between backends although they have the same name, by name.
    pub fn drifts(&self) -> Vec<Drift> {
        self.catalogue.members().drifts()
    }

    /// The status of the queue: the models with waiting or running requests.
    pub fn queue_status(&self) -> Vec<QueueStatus> {
        let rows = self.queue.snapshot().into_iter().filter_map(|row| {
            let model = row.class.model.filter(|_| row.class.runs_model)?;
            (row.waiting > 0 || row.in_flight > 0).then(|| QueueStatus {
                model: model.to_string().into(),
                waiting: row.waiting,
                in_flight: row.in_flight,
                oldest: row.oldest,
                predicted_wait: row.predicted_wait,
            })
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|one, other| one.model.cmp(&other.model));
        rows
    }
}
