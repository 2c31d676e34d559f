//! The servers that are cordoned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{ChangeSignal, Changes, Persist, Restored};
use crate::ollama::fleet::Cordons;

/// The names of the cordoned servers, with a note of changes.
#[derive(Debug)]
pub struct KeptCordons {
    cordons: Cordons,
    is_changed: Arc<AtomicBool>,
}

impl KeptCordons {
    /// None so far. The signal is set when there is something to write.
    pub fn new(signal: ChangeSignal) -> Self {
        let is_changed = Arc::<AtomicBool>::default();
        let changed = is_changed.clone();
        let cordons = Cordons::with_hook(move || {
            changed.store(true, Ordering::Release);
            signal.set();
        });
        Self {
            cordons,
            is_changed,
        }
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
}
