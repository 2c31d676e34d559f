//! The exchange of service with the queues of other processes.

use super::machine::{Raise, Service};
use super::{Dispatch, Queue};

impl<D: Dispatch> Queue<D> {
    /// Counts what other processes have served. Without it, each queue is fair by itself.
    ///
    /// The caller passes on what [`take_service`](Self::take_service) returns, adds it up for each key, and
    /// calls [`raise`](Self::raise) with the sums.
    pub fn with_exchange(self) -> Self {
        self.shared.state().class_queues.exchange_service();
        self
    }

    /// Returns when keys have come since the last call. The caller may know what other processes have served
    /// them.
    pub async fn has_new_keys(&self) {
        self.shared.has_new_keys.notified().await;
    }

    /// The keys that are new or have received service since the last call, each after the floor of its
    /// class.
    pub fn take_service(&self) -> Vec<Service<D::Class, D::Key>> {
        self.shared.state().class_queues.take_service()
    }

    /// Raises counters and floors to what all processes have served; the floor of a class comes before its
    /// keys.
    pub fn raise<'a>(&self, rows: impl IntoIterator<Item = &'a Raise<D::Class, D::Key>>)
    where
        D: 'a,
    {
        let mut state = self.shared.state();
        rows.into_iter()
            .for_each(|row| state.class_queues.raise(row));
    }

    /// The other processes have gone on without this one: it moves to their scale at the next
    /// [`raise`](Self::raise) of a floor.
    pub fn leave_scale(&self) {
        self.shared.state().class_queues.leave_scale();
    }
}
