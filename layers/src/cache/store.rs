//! The cached answers, and the exchanges in progress.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderName, header};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::flight::{Flight, Inner};
use super::key::Key;

/// The approximate overhead of an entry in bytes: its head and the bookkeeping.
const ENTRY: u64 = 1024;

/// Headers that are valid for one answer only.
const OF_ONE_ANSWER: [HeaderName; 5] = [
    header::DATE,
    header::SET_COOKIE,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-request-id"),
];

/// A cached answer.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) head: Parts,
    pub(super) frames: Arc<[Bytes]>,
    pub(super) until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Key, Kept> for ByBytes {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        ENTRY
            + kept
                .frames
                .iter()
                .map(|frame| frame.len() as u64 + 32)
                .sum::<u64>()
    }
}

/// All cached answers and exchanges of a layer.
#[derive(Debug)]
pub(super) struct Store {
    kept: Cache<Key, Kept, ByBytes>,
    under_way: Mutex<HashMap<Key, Weak<Flight>>>,
    pub(super) time_to_live: Option<Duration>,
    pub(super) max_answer: u64,
}

/// The exchange for a request: a new one, or one in progress.
pub(super) enum Joined {
    First(Arc<Flight>),
    Twin(Arc<Flight>),
}

impl Store {
    pub(super) fn new(max_bytes: u64) -> Self {
        let items = usize::try_from(max_bytes / 16_384).unwrap_or(usize::MAX);
        Self {
            kept: Cache::with_weighter(items.clamp(16, 1 << 20), max_bytes, ByBytes),
            under_way: Mutex::default(),
            time_to_live: Some(Duration::from_secs(3600)),
            max_answer: max_bytes / 16,
        }
    }

    /// A store with the same rules and no answers.
    pub(super) fn emptied(&self) -> Self {
        let mut emptied = Self::new(self.kept.capacity());
        emptied.time_to_live = self.time_to_live;
        emptied.max_answer = self.max_answer;
        emptied
    }

    pub(super) fn get(&self, key: &Key) -> Option<Kept> {
        let kept = self.kept.get(key)?;
        if kept.until.is_some_and(|until| until <= Instant::now()) {
            self.kept.remove(key);
            return None;
        }
        Some(kept)
    }

    pub(super) fn keep(&self, key: Key, mut head: Parts, frames: Arc<[Bytes]>) {
        OF_ONE_ANSWER.iter().for_each(|name| {
            head.headers.remove(name);
        });
        head.extensions.clear();
        let until = self
            .time_to_live
            .and_then(|time| Instant::now().checked_add(time));
        self.kept.insert(
            key,
            Kept {
                head,
                frames,
                until,
            },
        );
    }

    /// Joins the exchange in progress for this key, or begins one.
    pub(super) fn join(self: &Arc<Self>, key: Key, begin: impl FnOnce() -> Inner) -> Joined {
        let mut under_way = self.under_way();
        if let Some(flight) = under_way.get(&key).and_then(Weak::upgrade) {
            return Joined::Twin(flight);
        }
        let flight = Arc::new(Flight::new(key, self.clone(), begin()));
        under_way.insert(key, Arc::downgrade(&flight));
        Joined::First(flight)
    }

    /// Ends the joining of this exchange.
    pub(super) fn close(&self, key: &Key, flight: *const Flight) {
        let mut under_way = self.under_way();
        if under_way
            .get(key)
            .is_some_and(|known| known.as_ptr() == flight)
        {
            under_way.remove(key);
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    #[cfg(test)]
    pub(super) fn exchanges(&self) -> usize {
        self.under_way().len()
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Key, Weak<Flight>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
