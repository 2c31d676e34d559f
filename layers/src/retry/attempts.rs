//! State shared by a request's attempts.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Extensions;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::shared::Shared;

/// The number of the current attempt, and the backends that were tried before. It is stored in the
/// request's extensions ([`Attempts::of`]), and all attempts share it.
///
/// A load balancer records its choice here, so that the next attempt can use another backend, and
/// the retry layer knows whether it did.
#[derive(Clone, Debug)]
pub struct Attempts(Arc<Common>);

#[derive(Debug)]
struct Common {
    started: Instant,
    number: AtomicU32,
    backends: Mutex<Backends>,
}

#[derive(Debug, Default)]
struct Backends {
    // Most requests need a single attempt.
    tried: SmallVec<[Arc<str>; 1]>,
    untried: Option<usize>,
}

impl Attempts {
    /// The attempts of the request with these extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Shared::of(extensions)?.attempts.as_ref()
    }

    /// The first attempt.
    pub(super) fn first() -> Self {
        Self(Arc::new(Common {
            started: Instant::now(),
            number: AtomicU32::new(1),
            backends: Mutex::default(),
        }))
    }

    pub(super) fn next(&self) {
        self.0.number.fetch_add(1, Ordering::Relaxed);
    }

    /// When the first attempt began. A queue can use it as the arrival time of each attempt, which
    /// then keeps the first one's place.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// The attempt's number; the first is 1.
    pub fn number(&self) -> u32 {
        self.0.number.load(Ordering::Relaxed)
    }

    /// Records the backend of this attempt.
    pub fn record_backend(&self, name: Arc<str>) {
        self.backends().tried.push(name);
    }

    /// Records the number of backends that were not tried yet and could be, without this attempt's
    /// backend.
    pub fn record_untried(&self, count: usize) {
        self.backends().untried = Some(count);
    }

    /// The backends of all attempts so far, in order.
    pub fn tried(&self) -> Vec<Arc<str>> {
        self.backends().tried.to_vec()
    }

    /// Whether an attempt so far used the backend of this name.
    pub fn has_tried(&self, name: &str) -> bool {
        self.backends().tried.iter().any(|tried| **tried == *name)
    }

    /// Whether the next attempt is expected to use a new backend. If the number of remaining
    /// backends was not recorded, this is true until a backend was tried twice; if no backend was
    /// recorded, it is false.
    pub fn can_go_elsewhere(&self) -> bool {
        let backends = self.backends();
        match (backends.untried, backends.tried.split_last()) {
            (Some(untried), _) => untried > 0,
            (None, Some((last, before))) => !before.contains(last),
            (None, None) => false,
        }
    }

    fn backends(&self) -> MutexGuard<'_, Backends> {
        self.0
            .backends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_count_there_is_another_backend_until_one_was_tried_twice() {
        let attempts = Attempts::first();
        assert!(!attempts.can_go_elsewhere(), "no backend was recorded");
        attempts.record_backend("a".into());
        attempts.record_backend("b".into());
        assert!(attempts.can_go_elsewhere());
        attempts.record_backend("a".into());
        assert!(!attempts.can_go_elsewhere());
    }

    #[test]
    fn there_is_no_other_backend_if_none_is_left() {
        let attempts = Attempts::first();
        attempts.record_backend("a".into());
        attempts.record_untried(1);
        assert!(attempts.can_go_elsewhere());
        attempts.record_backend("b".into());
        attempts.record_untried(0);
        assert!(!attempts.can_go_elsewhere());
    }
}
