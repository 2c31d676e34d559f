//! What operators are told: the documents under `/status` of the admin listener.
//!
//! Each document is a type, and its JSON schema is made from the types
//! (`docs/status.schema.json`). Durations are in seconds, sizes in bytes, times in RFC 3339.
//! `null` means that a value is not known or does not apply. A field that a document lacks, because
//! it comes from another version of the gateway, is read as its default.

mod backends;
mod cloud;
mod decisions;
mod gateway;
mod keys;
mod models;
mod queue;
mod requests;
mod sharing;
mod sync;
mod usage;

pub use backends::{
    AvoidedModel, Backend, LoadOfServer, Memory, ModelOnBackend, ModelsInMemory, Preloaded,
    ResidentModel,
};
pub use cloud::{CloudService, CloudState};
pub use decisions::{CandidateRow, DecisionRow, Decisions};
pub use gateway::{Certificate, ExpiringKey, Gateway, Overview, Reload, Status};
pub use keys::{KeyBudget, KeyRow};
pub use models::{Holder, ModelRow, Models, ServerName};
pub use queue::{DigestsDiffer, QueueRow, WaiterRow};
pub use requests::{Activity, ClientRow, CostTerms, Interval, RequestRow};

pub use sharing::{RedisState, RegisteredGateway, SharingState};
pub use sync::{FailedModel, ModelsSync, PulledModel, SyncState, SyncedServer};
pub use usage::{StateFile, UsageReport, UsageRow};

use std::time::Duration;

/// A number of seconds to the microsecond. The digits beyond it are no information.
pub(crate) fn rounded(seconds: f64) -> f64 {
    // Not -0, which has a sign in JSON.
    (seconds * 1e6).round() / 1e6 + 0.0
}

pub(crate) fn seconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64())
}

#[cfg(test)]
mod tests;
