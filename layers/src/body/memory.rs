//! The memory budget for request bodies, and reservations from it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::machine;

/// The number of bytes that all buffered bodies together may hold. Clones share one counter.
///
/// A reservation is granted at once or refused, it never waits. So two half-read bodies cannot
/// block each other.
///
/// ```
/// use llamatower_layers::body::MemoryBudget;
///
/// let budget = MemoryBudget::new(1000);
/// let held = budget.try_reserve(700).expect("there is room");
/// assert!(budget.try_reserve(400).is_none());
/// drop(held);
/// assert_eq!(budget.available(), 1000);
/// ```
#[derive(Clone)]
pub struct MemoryBudget {
    counter: Arc<Counter>,
}

#[derive(Debug)]
struct Counter {
    capacity: u64,
    available: AtomicU64,
    /// What may still be promised; see [`MemoryBudget::promise`].
    #[cfg(feature = "body-limit")]
    unpromised: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        Self {
            counter: Arc::new(Counter {
                capacity: bytes,
                available: AtomicU64::new(bytes),
                #[cfg(feature = "body-limit")]
                unpromised: AtomicU64::new(bytes / 2),
            }),
        }
    }

    /// A share (0 to 1) of this process's memory limit: the lowest limit of its cgroups (v2 or v1),
    /// otherwise the machine's memory, or 1 GiB if neither can be read.
    ///
    /// This reads files below `/proc` and `/sys`; call it once, at the start.
    pub fn of_this_machine(share: f64) -> Self {
        let memory = machine::memory_limit().unwrap_or(1 << 30);
        // The cast saturates and turns NaN into 0.
        Self::new((memory as f64 * share.clamp(0.0, 1.0)) as u64)
    }

    /// The whole budget in bytes.
    pub fn capacity(&self) -> u64 {
        self.counter.capacity
    }

    /// The free bytes.
    pub fn available(&self) -> u64 {
        self.counter.available.load(Ordering::Relaxed)
    }

    /// Reserves `bytes`, or nothing.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        self.counter.try_reserve(bytes)
    }

    /// Promises memory to something that has not arrived; its reservation is separate. `None` if more than half of the
    /// budget would be promised: what is only announced must not take all of it.
    #[cfg(feature = "body-limit")]
    pub(crate) fn promise(&self, bytes: u64) -> Option<Promise> {
        self.counter.promise(bytes)
    }
}

// Relaxed is enough: the counters protect no other memory.
fn take(counter: &AtomicU64, bytes: u64) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
            free.checked_sub(bytes)
        })
        .is_ok()
}

impl Counter {
    fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        take(&self.available, bytes).then(|| Reservation {
            counter: self.clone(),
            bytes,
        })
    }

    #[cfg(feature = "body-limit")]
    fn promise(self: &Arc<Self>, bytes: u64) -> Option<Promise> {
        take(&self.unpromised, bytes).then(|| Promise {
            counter: self.clone(),
            bytes,
        })
    }

    fn give_back(&self, bytes: u64) {
        self.available.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("capacity", &self.capacity())
            .field("available", &self.available())
            .finish()
    }
}

/// Bytes reserved from a [`MemoryBudget`]. Dropping the reservation releases them.
pub struct Reservation {
    counter: Arc<Counter>,
    bytes: u64,
}

impl Reservation {
    /// The number of reserved bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reserves `bytes` for something else from the same budget, or nothing.
    pub fn try_reserve(&self, bytes: u64) -> Option<Self> {
        self.counter.try_reserve(bytes)
    }

    /// Reserves `more` bytes. Returns `false`, and reserves nothing, if the budget has too few.
    #[must_use]
    pub fn try_grow(&mut self, more: u64) -> bool {
        let granted = take(&self.counter.available, more);
        if granted {
            self.bytes += more;
        }
        granted
    }

    /// Promises memory of the same budget, as [`MemoryBudget::promise`].
    #[cfg(feature = "body-limit")]
    pub(crate) fn promise(&self, bytes: u64) -> Option<Promise> {
        self.counter.promise(bytes)
    }

    /// Releases all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.counter.give_back(surplus);
            self.bytes = bytes;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.counter.give_back(self.bytes);
    }
}

/// Bytes of a [`MemoryBudget`] that are promised and have not arrived.
#[cfg(feature = "body-limit")]
#[derive(Debug)]
pub(crate) struct Promise {
    counter: Arc<Counter>,
    bytes: u64,
}

#[cfg(feature = "body-limit")]
impl Promise {
    /// Ends the promise of bytes that have arrived.
    pub(crate) fn arrived(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.counter.unpromised.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(feature = "body-limit")]
impl Drop for Promise {
    fn drop(&mut self) {
        self.arrived(self.bytes);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation").field(&self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_reservation_that_cannot_grow_keeps_what_it_had() {
        let budget = MemoryBudget::new(10);
        let mut held = budget.try_reserve(6).unwrap();
        assert!(held.try_grow(3));
        assert!(!held.try_grow(2));
        assert_eq!((held.bytes(), budget.available()), (9, 1));
        held.shrink_to(4);
        held.shrink_to(8);
        assert_eq!((held.bytes(), budget.available()), (4, 6));
        drop(held);
        assert_eq!(budget.available(), 10);
    }

    #[test]
    fn threads_never_exceed_the_budget_and_release_everything() {
        let budget = MemoryBudget::new(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for size in 1..500 {
                        let held = budget.try_reserve(size);
                        assert!(budget.available() <= 1000);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(budget.available(), 1000);
    }

    #[test]
    fn a_share_of_this_machine_is_less_than_the_whole() {
        let half = MemoryBudget::of_this_machine(0.5).capacity();
        assert!(half > 0);
        assert!(half < MemoryBudget::of_this_machine(7.0).capacity());
        assert_eq!(MemoryBudget::of_this_machine(f64::NAN).capacity(), 0);
    }
}
