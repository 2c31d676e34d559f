//! The fleet, as telemetry and operators see it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use llamatower_layers::ModelName;

use crate::ollama::fleet::{
    BackendStatus, Decision, Drift, Fleet, MemoryChange, MemoryChangeFailed, QueueStatus, Waiting,
};

/// What telemetry and operators can query.
pub trait FleetView: Send + Sync {
    /// The status of each backend.
    fn status(&self) -> Vec<BackendStatus>;
    /// The queue's status for each model.
    fn queue_status(&self) -> Vec<QueueStatus>;
    /// The `most` requests that have waited longest, the longest wait first.
    fn waiting(&self, most: usize) -> Vec<Waiting>;
    /// Ends the wait of a request, by its number. Returns whether it was waiting.
    fn cancel_waiting(&self, id: u64) -> bool;
    /// The models that differ between backends although they have the same name.
    fn drifts(&self) -> Vec<Drift>;
    /// The last choices of a backend, the latest first.
    fn decisions(&self) -> Vec<Decision>;
    /// Whether a backend has a model of this name.
    fn knows(&self, model: &str) -> bool;
    /// Takes the backend with this name out of the choice, or back into it. Returns whether there is
    /// such a backend.
    fn set_cordoned(&self, name: &str, is_cordoned: bool) -> bool;
    /// Loads or unloads a model on the backend with this name; see [`Fleet::change_memory`].
    fn change_memory(
        self: Arc<Self>,
        backend: String,
        model: ModelName,
        change: MemoryChange,
    ) -> BoxFuture<'static, Result<Duration, MemoryChangeFailed>>;
}

impl<S: Send + Sync + 'static> FleetView for Fleet<S> {
    fn status(&self) -> Vec<BackendStatus> {
        Fleet::status(self)
    }
    fn queue_status(&self) -> Vec<QueueStatus> {
        Fleet::queue_status(self)
    }
    fn waiting(&self, most: usize) -> Vec<Waiting> {
        Fleet::waiting(self, most)
    }
    fn cancel_waiting(&self, id: u64) -> bool {
        Fleet::cancel_waiting(self, id)
    }
    fn drifts(&self) -> Vec<Drift> {
        Fleet::drifts(self)
    }
    fn decisions(&self) -> Vec<Decision> {
        Fleet::decisions(self)
    }
    fn knows(&self, model: &str) -> bool {
        Fleet::knows(self, model)
    }
    fn set_cordoned(&self, name: &str, is_cordoned: bool) -> bool {
        Fleet::set_cordoned(self, name, is_cordoned)
    }
    fn change_memory(
        self: Arc<Self>,
        backend: String,
        model: ModelName,
        change: MemoryChange,
    ) -> BoxFuture<'static, Result<Duration, MemoryChangeFailed>> {
        async move { Fleet::change_memory(&self, &backend, &model, change).await }.boxed()
    }
}

/// The fleet, once it is set.
pub(super) type View = Arc<OnceLock<Arc<dyn FleetView>>>;
