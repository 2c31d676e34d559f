//! What telemetry and operators see of the fleet.

use std::sync::{Arc, OnceLock};

use crate::ollama::fleet::{BackendStatus, Fleet, QueueStatus};

/// What telemetry and operators may ask the fleet.
pub trait FleetView: Send + Sync {
    /// How each backend stands.
    fn status(&self) -> Vec<BackendStatus>;
    /// What waits for each model.
    fn queue_status(&self) -> Vec<QueueStatus>;
    /// Whether some backend has a model of this name.
    fn knows(&self, model: &str) -> bool;
}

impl<S: Send + Sync> FleetView for Fleet<S> {
    fn status(&self) -> Vec<BackendStatus> {
        Fleet::status(self)
    }
    fn queue_status(&self) -> Vec<QueueStatus> {
        Fleet::queue_status(self)
    }
    fn knows(&self, model: &str) -> bool {
        Fleet::knows(self, model)
    }
}

/// The fleet, once there is one.
pub(super) type View = Arc<OnceLock<Arc<dyn FleetView>>>;
