//! The policy of the fleet, shared.

use std::sync::{Arc, Mutex, PoisonError};

use super::policy::Policy;

/// The routing policy, under a lock. A request holds it for less than a microsecond.
#[derive(Clone, Debug, Default)]
pub(super) struct Router(Arc<Mutex<Policy>>);

impl Router {
    /// Reads or changes the state of the policy.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Policy) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
