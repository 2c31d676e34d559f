//! The time of a wait, in the record of its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::request::Parts;
use llamatower_layers::{Outcome, Record};
use tokio::time::Instant;

/// Whether a request waits for a backend at the moment, again after a failed attempt too. A layer around
/// the fleet that wants to know puts it into the extensions of the request.
#[derive(Clone, Debug, Default)]
pub struct WaitsForBackend(Arc<AtomicBool>);

impl WaitsForBackend {
    pub(crate) fn now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, waits: bool) {
        self.0.store(waits, Ordering::Relaxed);
    }
}

/// Measures a wait until it is dropped: when the request has what it waited for, the wait has failed,
/// or nobody waits for the answer any more.
pub struct WaitTimer {
    record: Option<Record>,
    waits: Option<WaitsForBackend>,
    since: Instant,
    add: fn(&mut Outcome, Duration),
}

impl WaitTimer {
    /// Measures a wait that has begun at this time; `add` adds the time to the record.
    pub(super) fn since(since: Instant, request: &Parts, add: fn(&mut Outcome, Duration)) -> Self {
        let record = Record::of(&request.extensions).cloned();
        let waits = request.extensions.get::<WaitsForBackend>().cloned();
        if let Some(waits) = &waits {
            waits.set(true);
        }
        Self {
            record,
            waits,
            since,
            add,
        }
    }
}

impl Drop for WaitTimer {
    fn drop(&mut self) {
        if let Some(waits) = &self.waits {
            waits.set(false);
        }
        if let Some(record) = &self.record {
            let time = self.since.elapsed();
            record.update(|outcome| (self.add)(outcome, time));
        }
    }
}
