//! The state of the gateway, and all of it together.

use serde::{Deserialize, Serialize};

use super::{
    Activity, Backend, CloudState, DigestsDiffer, KeyRow, ModelRow, ModelsSync, QueueRow,
    SharingState, StateFile, WaiterRow,
};

/// The document `/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Status {
    /// The gateway itself.
    pub gateway: Gateway,
    /// The backends, in the order of the configuration.
    pub backends: Vec<Backend>,
    /// The queue of each model with waiting or running requests.
    pub queue: Vec<QueueRow>,
    /// The names that stand for different models.
    pub digests_differ: Vec<DigestsDiffer>,
    /// The cloud service.
    pub cloud: CloudState,
    /// The sync of the declared models.
    pub models_sync: ModelsSync,
    /// Whether usage, token windows and cordons are kept over a restart.
    pub state: StateFile,
    /// What this gateway shares with others.
    pub sharing: SharingState,
}

/// The gateway itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Gateway {
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: String,
    /// Requests in flight, also those that wait.
    pub in_flight: usize,
    /// Open connections of clients.
    pub connections: usize,
    /// Whether it accepts no new requests, because it is about to end.
    pub is_draining: bool,
    /// The address of a trace, with `{trace_id}` in place of its id; null if none is set.
    pub trace_url: Option<String>,
    /// The last reload of the settings; null if there was none.
    pub last_reload: Option<Reload>,
}

/// A reload of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Reload {
    /// When it took place.
    pub at: String,
    /// Whether the settings were applied. If not, there was an error, and the old ones stay in force.
    pub is_applied: bool,
}

/// The document `/status/overview`: everything that the status page shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Overview {
    /// As in `/status`.
    #[serde(flatten)]
    pub status: Status,
    /// The requests that wait, the longest wait first; at most 100.
    pub waiting: Vec<WaiterRow>,
    /// As in `/status/models`.
    pub models: Vec<ModelRow>,
    /// The configured keys, by name.
    pub keys: Vec<KeyRow>,
    /// As in `/status/requests`.
    #[serde(flatten)]
    pub activity: Activity,
}
