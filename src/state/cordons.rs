//! The servers that are cordoned.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::{ChangeSignal, Changes, Persist, Restored};
use crate::ollama::fleet::Cordons;
use crate::telemetry::FleetView;

/// The names of the cordoned servers, with a note of changes.
pub struct KeptCordons {
    cordons: Cordons,
    is_changed: Arc<AtomicBool>,
    fleet: OnceLock<Arc<dyn FleetView>>,
}

impl KeptCordons {
    /// None so far. The signal is set when there is something to write.
    pub fn new(signal: ChangeSignal) -> Self {
        let is_changed = Arc::<AtomicBool>::default();
        let changed = is_changed.clone();
        let cordons = Cordons::with_hook(move || {
            // A swap, so that it is seen before the signal.
            changed.swap(true, Ordering::AcqRel);
            signal.set();
        });
        Self {
            cordons,
            is_changed,
            fleet: OnceLock::new(),
        }
    }

    /// The servers of this fleet are cordoned if the file is opened late. Only the first call has an
    /// effect.
    pub fn observe(&self, fleet: Arc<dyn FleetView>) {
        let _ = self.fleet.set(fleet);
    }

    /// The names, for the fleet.
    pub fn cordons(&self) -> Cordons {
        self.cordons.clone()
    }
}

impl Persist for KeptCordons {
    fn take_changes(&self, changes: &mut Changes) {
        if self.is_changed.swap(false, Ordering::AcqRel) {
            changes.cordons = Some(self.cordons.names());
        }
    }

    fn restore(&self, stored: &Restored) {
        self.cordons.restore(stored.cordons.iter().cloned());
    }

    fn merge(&self, stored: &Restored) {
        self.restore(stored);
        if let Some(fleet) = self.fleet.get() {
            for name in self.cordons.names() {
                fleet.set_cordoned(&name, true);
            }
        }
        // Those of this run are not in the file.
        self.is_changed.store(true, Ordering::Release);
    }
}

impl std::fmt::Debug for KeptCordons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeptCordons").field(&self.cordons).finish()
    }
}
