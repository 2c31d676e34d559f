//! The cached responses, and the exchanges in progress.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderName, header};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::flight::{Flight, NewExchange};
use super::key::Key;
use super::reporters::Place;

/// The approximate overhead of an entry in bytes: its head and the bookkeeping.
const ENTRY_OVERHEAD: u64 = 1024;

/// Headers that are valid for one response only.
const PER_ANSWER_HEADERS: [HeaderName; 5] = [
    header::DATE,
    header::SET_COOKIE,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-request-id"),
];

/// A cached response.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) head: Parts,
    pub(super) frames: Arc<[Bytes]>,
    pub(super) until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Key, Entry> for ByBytes {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        ENTRY_OVERHEAD
            + entry
                .frames
                .iter()
                .map(|frame| frame.len() as u64 + 32)
                .sum::<u64>()
    }
}

/// All cached responses and exchanges of a layer.
#[derive(Debug)]
pub(super) struct Store {
    entries: Cache<Key, Entry, ByBytes>,
    in_progress: Mutex<HashMap<Key, Weak<Flight>>>,
    pub(super) time_to_live: Option<Duration>,
    pub(super) max_answer: u64,
}

/// The exchange for a request: a new one, or one in progress.
pub(super) enum Joined {
    /// A new one. Its exchange is not begun.
    Leader(Arc<Flight>),
    /// One in progress, and the place of the request that joins it.
    Follower(Arc<Flight>, Place),
}

impl Store {
    pub(super) fn new(max_bytes: u64) -> Self {
        let items = usize::try_from(max_bytes / 16_384).unwrap_or(usize::MAX);
        Self {
            entries: Cache::with_weighter(items.clamp(16, 1 << 20), max_bytes, ByBytes),
            in_progress: Mutex::default(),
            time_to_live: Some(Duration::from_secs(3600)),
            max_answer: max_bytes / 16,
        }
    }

    /// A store with the same rules and no responses.
    pub(super) fn without_entries(&self) -> Self {
        let mut store = Self::new(self.entries.capacity());
        store.time_to_live = self.time_to_live;
        store.max_answer = self.max_answer;
        store
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        let entry = self.entries.get(key)?;
        if entry.until.is_some_and(|until| until <= Instant::now()) {
            self.entries.remove(key);
            return None;
        }
        Some(entry)
    }

    pub(super) fn insert(&self, key: Key, mut head: Parts, frames: Arc<[Bytes]>) {
        PER_ANSWER_HEADERS.iter().for_each(|name| {
            head.headers.remove(name);
        });
        head.extensions.clear();
        let until = self
            .time_to_live
            .and_then(|time| Instant::now().checked_add(time));
        self.entries.insert(
            key,
            Entry {
                head,
                frames,
                until,
            },
        );
    }

    /// Joins the exchange in progress for this key, or makes place for a new one. The inner service
    /// is called by the leader, after the lock of all exchanges was released.
    pub(super) fn join(self: &Arc<Self>, key: Key, new: NewExchange) -> Joined {
        let mut in_progress = self.in_progress();
        if let Some(flight) = in_progress.get(&key).and_then(Weak::upgrade) {
            return Joined::Follower(flight, new.place);
        }
        let flight = Arc::new(Flight::new(key, self.clone(), new));
        in_progress.insert(key, Arc::downgrade(&flight));
        Joined::Leader(flight)
    }

    /// Ends the joining of this exchange.
    pub(super) fn close(&self, key: &Key, flight: *const Flight) {
        let mut in_progress = self.in_progress();
        if in_progress
            .get(key)
            .is_some_and(|known| known.as_ptr() == flight)
        {
            in_progress.remove(key);
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    #[cfg(test)]
    pub(super) fn exchanges(&self) -> usize {
        self.in_progress().len()
    }

    fn in_progress(&self) -> MutexGuard<'_, HashMap<Key, Weak<Flight>>> {
        self.in_progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
