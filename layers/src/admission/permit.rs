//! The count of concurrent requests, and their permits.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::AtCapacity;

/// A count that never exceeds its limit.
pub(super) struct Cap {
    max: NonZeroUsize,
    in_flight: AtomicUsize,
}

impl Cap {
    pub(super) fn new(max: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self {
            max,
            in_flight: AtomicUsize::new(0),
        })
    }

    pub(super) fn max(&self) -> NonZeroUsize {
        self.max
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    // Relaxed is enough: the count protects no other memory, and its own order is total.
    // `fetch_update`, not its newer name `try_update`: that needs a newer Rust than this crate promises.
    pub(super) fn try_admit(self: &Arc<Self>) -> Result<Permit, AtCapacity> {
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < self.max.get()).then_some(n + 1)
            })
            .map(|_| Permit { cap: self.clone() })
            .map_err(|_| AtCapacity { max: self.max })
    }
}

/// The permit of one request. Dropping it releases the permit.
pub struct Permit {
    cap: Arc<Cap>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.cap.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
