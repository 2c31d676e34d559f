//! The last choices of a backend, and their reasons.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::requests::CostTerms;
use super::{rounded, seconds};
use crate::ollama::fleet::{Candidate, Decision};
use crate::telemetry::FleetView;

/// The document `/status/decisions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Decisions {
    /// The last 100 choices, the latest first.
    pub decisions: Vec<DecisionRow>,
}

/// One choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct DecisionRow {
    /// Its number.
    pub id: u64,
    /// The time since it was made.
    pub age: f64,
    /// The model.
    pub model: String,
    /// How long the request had waited.
    pub waited: f64,
    /// The requests that waited for the model, this one included.
    pub waiting: usize,
    /// The chosen backend.
    pub backend: Option<String>,
    /// The backends that have the model, up to 8.
    pub candidates: Vec<CandidateRow>,
}

/// A backend that has the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct CandidateRow {
    /// Its name.
    pub backend: String,
    /// `healthy`, `avoided`, `breaker_open`, `down` or `down_and_breaker_open`. Only backends in the best state of all are compared.
    pub state: String,
    /// An earlier attempt of the request went there.
    pub was_tried: bool,
    /// The request could be sent there at once.
    pub is_open: bool,
    /// The request would load the model there.
    pub loads: bool,
    /// The terms of its cost; null if it was not compared.
    #[serde(flatten)]
    pub terms: CostTerms,
}

impl Decisions {
    /// The document of this fleet.
    pub fn of(fleet: &dyn FleetView) -> Self {
        Self::new(&fleet.decisions(), Instant::now())
    }

    /// The document at the time `now`.
    pub fn new(decisions: &[Decision], now: Instant) -> Self {
        let rows = decisions.iter().map(|row| DecisionRow {
            id: row.id.number(),
            age: seconds(now.saturating_duration_since(row.at)),
            model: row.model.to_string(),
            waited: rounded(row.waited),
            waiting: row.waiting,
            backend: row.server.as_deref().map(str::to_owned),
            candidates: row.candidates.iter().map(Into::into).collect(),
        });
        Self {
            decisions: rows.collect(),
        }
    }
}

impl From<&Candidate> for CandidateRow {
    fn from(row: &Candidate) -> Self {
        Self {
            backend: row.server.to_string(),
            state: row.availability.name().to_owned(),
            was_tried: row.was_tried,
            is_open: row.is_open,
            loads: row.loads,
            terms: row.terms.as_ref().into(),
        }
    }
}
