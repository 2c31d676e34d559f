//! Who waits in the queue, and names that stand for different models.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::seconds;
use crate::ollama::fleet::{Drift, QueueStatus, Waiting};

/// The queue of one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct QueueRow {
    /// The model.
    pub model: String,
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// Requests that hold a slot.
    pub in_flight: usize,
    /// The longest wait so far.
    pub oldest: Option<f64>,
    /// The expected wait of one more request.
    pub predicted_wait: Option<f64>,
}

/// A request that waits for a slot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct WaiterRow {
    /// Its number, by which an operator can cancel it.
    pub id: u64,
    /// The model; null for a request that names none.
    pub model: Option<String>,
    /// `key:NAME`, `user:KEY/USER` or `address:ADDRESS`; null if the client is not known.
    pub client: Option<String>,
    /// `high`, `normal` or `low`.
    pub priority: String,
    /// The time since it arrived.
    pub waited: f64,
    /// The number of requests that get a slot before it, if none enters and none leaves.
    pub ahead: usize,
    /// The expected wait from now.
    pub expected_wait: Option<f64>,
}

/// A name that stands for different models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct DigestsDiffer {
    /// The name.
    pub model: String,
    /// The backends by digest.
    pub digests: BTreeMap<String, Vec<String>>,
}

impl From<QueueStatus> for QueueRow {
    fn from(row: QueueStatus) -> Self {
        Self {
            model: row.model.to_string(),
            waiting: row.waiting,
            in_flight: row.in_flight,
            oldest: row.oldest.map(seconds),
            predicted_wait: row.predicted_wait.map(seconds),
        }
    }
}

impl From<Waiting> for WaiterRow {
    fn from(row: Waiting) -> Self {
        Self {
            id: row.id,
            model: row.model.map(|model| model.to_string()),
            client: row.client.map(|client| client.to_string()),
            priority: row.priority.name().to_owned(),
            waited: seconds(row.waited),
            ahead: row.ahead,
            expected_wait: row.expected_wait.map(seconds),
        }
    }
}

impl From<&Drift> for DigestsDiffer {
    fn from(drift: &Drift) -> Self {
        let digests = drift.digests.iter().map(|(digest, backends)| {
            let backends = backends.iter().map(ToString::to_string);
            (digest.to_string(), backends.collect())
        });
        Self {
            model: drift.model.to_string(),
            digests: digests.collect(),
        }
    }
}
