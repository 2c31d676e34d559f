//! The policy of the fleet, shared.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llamatower_layers::ModelName;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::policy::Policy;

/// Is told of each load of a model by a request.
pub trait LoadObserver: fmt::Debug + Send + Sync {
    /// The first byte of a request that loaded a model has arrived.
    fn loaded(&self, backend: &Arc<str>, model: &ModelName);
    /// Such a request has ended, and the backend has told how long the load took.
    fn load_took(&self, backend: &Arc<str>, model: &ModelName, time: Duration);
}

/// The routing policy, under a lock. A request holds it for less than a microsecond.
#[derive(Clone, Debug, Default)]
pub(super) struct Router(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    policy: Mutex<Policy>,
    /// Notified when requests begin to wait for a model.
    begins_to_wait: Notify,
    loads: Option<Arc<dyn LoadObserver>>,
}

impl Router {
    /// A router without servers.
    pub(super) fn new(loads: Option<Arc<dyn LoadObserver>>) -> Self {
        Self(Arc::new(Inner {
            policy: Mutex::default(),
            begins_to_wait: Notify::new(),
            loads,
        }))
    }

    /// Who is told of loads.
    pub(super) fn loads(&self) -> Option<&dyn LoadObserver> {
        self.0.loads.as_deref()
    }

    /// Sets the number of requests that wait for a model.
    pub(super) fn set_waiting(&self, model: &ModelName, waiting: usize) {
        let begins = self.change(|policy| {
            let waited = policy.waiting(model);
            policy.set_waiting(model, waiting);
            waited == 0 && waiting > 0
        });
        if begins {
            self.0.begins_to_wait.notify_waiters();
        }
    }

    /// Ready when requests begin to wait for a model after this call.
    pub(super) fn begins_to_wait(&self) -> Notified<'_> {
        self.0.begins_to_wait.notified()
    }

    /// Reads or changes the state of the policy.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Policy) -> T) -> T {
        let policy = self.0.policy.lock();
        change(&mut policy.unwrap_or_else(PoisonError::into_inner))
    }
}
