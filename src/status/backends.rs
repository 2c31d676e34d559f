//! The state of each backend.

use serde::{Deserialize, Serialize};

use crate::ollama::fleet::{
    Avoided, BackendStatus, MemoryStatus, ModelStatus, Occupancy, PreloadStatus, Resident,
};

/// One backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Backend {
    /// Its name: host, port and path.
    pub name: String,
    /// Whether it is an Ollama, whose models can be loaded and unloaded.
    pub is_ollama: bool,
    /// Whether it answers the gateway's probes.
    pub is_up: bool,
    /// Whether an operator has taken it out of the choice.
    pub is_cordoned: bool,
    /// The version of its Ollama.
    pub version: Option<String>,
    /// The number of models on its disk.
    pub installed: usize,
    /// The models in its memory; null if it does not list them.
    pub resident: Option<Vec<ResidentModel>>,
    /// The state of its circuit breaker: `closed`, `half_open` or `open`.
    pub breaker: String,
    /// Requests of this gateway in flight.
    pub in_flight: usize,
    /// The requests that it reports itself; only OpenAI-compatible servers do.
    pub reported: Option<LoadOfServer>,
    /// The configured limit of concurrent requests for one model.
    pub slots: Option<usize>,
    /// The models that are in its memory or have requests there.
    pub models: Vec<ModelOnBackend>,
    /// What its memory was seen to hold.
    pub memory: Option<Memory>,
    /// The models that the gateway loads by itself.
    pub preloads: Vec<Preloaded>,
    /// The configured limit of requests in flight.
    pub max_in_flight: Option<usize>,
    /// Its speed in comparison to other backends, as configured.
    pub weight: f64,
    /// Its labels, as configured.
    pub labels: Vec<String>,
    /// The models for which it is avoided, because of what it did.
    pub avoided: Vec<AvoidedModel>,
}

/// The requests that a server reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct LoadOfServer {
    /// Requests that run.
    pub running: u32,
    /// Requests that wait.
    pub waiting: u32,
    /// Those of both that this gateway has not sent.
    pub of_others: u32,
}

/// A model in the memory of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct ResidentModel {
    /// The model.
    pub model: String,
    /// Memory in bytes, including that of its slots.
    pub size: u64,
    /// The part of it in the memory of graphics cards, in bytes.
    pub size_vram: u64,
    /// Tokens for each slot.
    pub context_length: Option<u64>,
    /// When the backend unloads it if no request uses it.
    pub expires_at: Option<String>,
}

/// A model that is in the memory of a backend or has requests there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct ModelOnBackend {
    /// The model.
    pub model: String,
    /// `resident`, `loading`, `cold`, or `unknown` if the backend does not tell.
    pub residency: String,
    /// Requests in flight that run it.
    pub in_flight: u32,
    /// How many may be in flight; null if the number is not limited.
    pub limit: Option<u32>,
    /// The number of slots; null while it is not known.
    pub slots: Option<u32>,
    /// Where the number of slots comes from.
    pub slots_source: String,
    /// Prompt tokens in a second, as measured.
    pub prompt_tokens_per_second: Option<f64>,
    /// Output tokens of one request in a second, as measured.
    pub output_tokens_per_second: Option<f64>,
    /// The time of a load, as measured.
    pub load_seconds: Option<f64>,
    /// It gets no new request for this time, because another model needs its place.
    pub rests_for: Option<f64>,
}

/// A model that the gateway loads by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Preloaded {
    /// The model.
    pub model: String,
    /// Whether it is kept in memory.
    pub pinned: bool,
    /// How far its load is, or why it failed.
    pub state: String,
}

/// What the memory of a backend was seen to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Memory {
    /// The most that was in memory at the same time.
    pub held: ModelsInMemory,
    /// What did not fit.
    pub did_not_fit: Option<ModelsInMemory>,
}

/// Models that were in memory together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct ModelsInMemory {
    /// Their number.
    pub models: usize,
    /// Their size in bytes; 0 if it is not known.
    pub bytes: u64,
}

/// A model for which a backend is avoided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct AvoidedModel {
    /// The model.
    pub model: String,
    /// What the backend did: `busy`, `failing` or `silent`.
    pub reason: String,
    /// The number of bad results in a row.
    pub failures: u32,
    /// The time until a trial; 0 if one is due or under way.
    pub trial_in: f64,
}

impl From<&BackendStatus> for Backend {
    fn from(row: &BackendStatus) -> Self {
        let resident = row.resident.as_deref();
        Self {
            name: row.name.to_string(),
            is_ollama: row.is_ollama,
            is_up: row.is_up,
            is_cordoned: row.is_cordoned,
            version: row.version.as_deref().map(str::to_owned),
            installed: row.installed,
            resident: resident.map(|rows| rows.iter().map(Into::into).collect()),
            breaker: row.breaker.name().to_owned(),
            in_flight: row.in_flight,
            reported: row.reported.map(|load| LoadOfServer {
                running: load.running,
                waiting: load.waiting,
                of_others: row.in_flight_of_others,
            }),
            slots: row.slots.map(std::num::NonZeroUsize::get),
            models: row.models.iter().map(Into::into).collect(),
            memory: row.memory.as_ref().map(Into::into),
            preloads: row.preloads.iter().map(Into::into).collect(),
            max_in_flight: row.rules.max_in_flight.map(std::num::NonZeroUsize::get),
            weight: row.rules.weight,
            labels: row.rules.labels.iter().map(ToString::to_string).collect(),
            avoided: row.avoided.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Resident> for ResidentModel {
    fn from(row: &Resident) -> Self {
        Self {
            model: row.name.to_string(),
            size: row.size,
            size_vram: row.size_vram,
            context_length: row.context_length,
            expires_at: row.expires_at.map(|time| time.to_string()),
        }
    }
}

impl From<&ModelStatus> for ModelOnBackend {
    fn from(row: &ModelStatus) -> Self {
        Self {
            model: row.model.to_string(),
            residency: row.residency.name().to_owned(),
            in_flight: row.in_flight,
            limit: row.slots.limit,
            slots: row.slots.known,
            slots_source: row.slots.source.name().to_owned(),
            prompt_tokens_per_second: row.prompt_rate,
            output_tokens_per_second: row.output_rate,
            load_seconds: row.load_seconds,
            rests_for: row.rests_for,
        }
    }
}

impl From<&PreloadStatus> for Preloaded {
    fn from(row: &PreloadStatus) -> Self {
        Self {
            model: row.model.to_string(),
            pinned: row.is_pinned,
            state: row.state.to_string(),
        }
    }
}

impl From<&MemoryStatus> for Memory {
    fn from(memory: &MemoryStatus) -> Self {
        let models = |row: &Occupancy| ModelsInMemory {
            models: row.models,
            bytes: row.bytes,
        };
        Self {
            held: models(&memory.held),
            did_not_fit: memory.did_not_fit.as_ref().map(models),
        }
    }
}

impl From<&Avoided> for AvoidedModel {
    fn from(row: &Avoided) -> Self {
        Self {
            model: row.model.to_string(),
            reason: row.reason.name().to_owned(),
            failures: row.failures,
            trial_in: super::seconds(row.trial_in),
        }
    }
}
