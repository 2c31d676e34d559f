//! What one request's attempts know of each other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Extensions;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::shared::Shared;

/// Which attempt a request is, and which backends were asked before; travels with the request
/// ([`Attempts::of`]) and is shared by its attempts.
///
/// Whoever chooses a backend notes its choice here, so that the next attempt can go elsewhere,
/// and the retry layer learn whether it did.
#[derive(Clone, Debug)]
pub struct Attempts(Arc<Common>);

#[derive(Debug)]
struct Common {
    started: Instant,
    number: AtomicU32,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    // Most requests are tried once.
    tried: SmallVec<[Arc<str>; 1]>,
    left: Option<usize>,
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
            asked: Mutex::default(),
        }))
    }

    pub(super) fn next(&self) {
        self.0.number.fetch_add(1, Ordering::Relaxed);
    }

    /// When the first attempt began. Whoever queues for a backend can hand it on as the arrival of
    /// each attempt, which then has the place in line that the first one had.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// The attempt's number; the first is 1.
    pub fn number(&self) -> u32 {
        self.0.number.load(Ordering::Relaxed)
    }

    /// Notes whom this attempt asks.
    pub fn note_backend(&self, name: Arc<str>) {
        self.asked().tried.push(name);
    }

    /// Notes how many backends are left that could be asked and were not, the one that this
    /// attempt asks not counted.
    pub fn note_left(&self, count: usize) {
        self.asked().left = Some(count);
    }

    /// Whom the attempts so far asked, in their order.
    pub fn tried(&self) -> Vec<Arc<str>> {
        self.asked().tried.to_vec()
    }

    /// Whether an attempt so far asked the backend of this name.
    pub fn has_tried(&self, name: &str) -> bool {
        self.asked().tried.iter().any(|tried| **tried == *name)
    }

    /// Whether a next attempt may be expected to ask somebody new. If nobody noted how many are
    /// left, that is so until a backend was asked twice; if nobody noted whom he asked, it is not.
    pub fn can_go_elsewhere(&self) -> bool {
        let asked = self.asked();
        match (asked.left, asked.tried.split_last()) {
            (Some(left), _) => left > 0,
            (None, Some((last, before))) => !before.contains(last),
            (None, None) => false,
        }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_somebody_else_until_one_was_asked_twice() {
        let attempts = Attempts::first();
        assert!(!attempts.can_go_elsewhere(), "nobody says whom he asks");
        attempts.note_backend("a".into());
        attempts.note_backend("b".into());
        assert!(attempts.can_go_elsewhere());
        attempts.note_backend("a".into());
        assert!(!attempts.can_go_elsewhere());
    }

    #[test]
    fn there_is_nobody_else_when_nobody_is_left() {
        let attempts = Attempts::first();
        attempts.note_backend("a".into());
        attempts.note_left(1);
        assert!(attempts.can_go_elsewhere());
        attempts.note_backend("b".into());
        attempts.note_left(0);
        assert!(!attempts.can_go_elsewhere());
    }
}
