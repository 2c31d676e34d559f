//! What one request's attempts know of each other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Which attempt a request is, and which backends were asked before; an extension of the
/// request, shared by its attempts.
#[derive(Clone, Debug)]
pub struct Attempts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    number: AtomicU32,
    tried: Mutex<Vec<Arc<str>>>,
}

impl Attempts {
    /// The first attempt.
    pub(super) fn first() -> Self {
        Self(Arc::new(Shared {
            number: AtomicU32::new(1),
            tried: Mutex::new(Vec::new()),
        }))
    }

    pub(super) fn next(&self) {
        self.0.number.fetch_add(1, Ordering::Relaxed);
    }

    /// The attempt's number; the first is 1.
    pub fn number(&self) -> u32 {
        self.0.number.load(Ordering::Relaxed)
    }

    /// Notes whom this attempt asks.
    pub fn note_backend(&self, name: Arc<str>) {
        self.list().push(name);
    }

    /// Whom the attempts so far asked, in their order.
    pub fn tried(&self) -> Vec<Arc<str>> {
        self.list().clone()
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Arc<str>>> {
        self.0.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
