//! The requests of each key that run or wait.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The number of requests of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyConcurrency {
    /// The maximum number of requests that run at a time.
    pub limit: usize,
    /// The requests that run.
    pub running: usize,
    /// The requests that wait for their turn.
    pub waiting: usize,
}

/// The requests of all keys with a limit. A key without requests is not in memory.
pub(super) struct Counts<K> {
    keys: Mutex<HashMap<K, Count>>,
}

struct Count {
    semaphore: Arc<Semaphore>,
    /// The permits that exist, free or not. There can be more than the limit after it was lowered.
    permits: usize,
    limit: usize,
    /// Those that run or wait.
    requests: usize,
    running: usize,
}

impl Count {
    fn waiting(&self) -> usize {
        self.requests - self.running
    }

    /// Sets the limit. Returns the number of permits to add, which is done without the lock, because it
    /// wakes requests.
    fn set_limit(&mut self, limit: usize) -> usize {
        self.limit = limit;
        let missing = limit.saturating_sub(self.permits);
        let excess = self.permits.saturating_sub(limit);
        self.permits += missing;
        self.permits -= self.semaphore.forget_permits(excess);
        missing
    }
}

/// What a request gets from a key.
pub(super) enum Entered<K: Clone + Eq + Hash> {
    /// It may run.
    Turn(Turn<K>),
    /// It waits for a permit.
    Place(Turn<K>, Arc<Semaphore>),
    /// So many others wait that it may not.
    Full(usize),
}

impl<K: Clone + Eq + Hash> Counts<K> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::default(),
        })
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<K, Count>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn of a key, or a place among those that wait, if fewer than `max_waiting` do.
    pub(super) fn enter(
        self: &Arc<Self>,
        key: K,
        limit: NonZeroU32,
        max_waiting: usize,
    ) -> Entered<K> {
        let limit = usize::try_from(limit.get()).unwrap_or(usize::MAX);
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let mut keys = self.keys();
        let count = keys.entry(key.clone()).or_insert_with(|| Count {
            semaphore: Arc::new(Semaphore::new(limit)),
            permits: limit,
            limit,
            requests: 0,
            running: 0,
        });
        let added = count.set_limit(limit);
        let semaphore = count.semaphore.clone();
        let permit = semaphore.clone().try_acquire_owned().ok();
        let waiting = count.waiting();
        let is_full = permit.is_none() && added == 0 && waiting >= max_waiting;
        if !is_full {
            count.requests += 1;
            count.running += usize::from(permit.is_some());
        }
        drop(keys);
        semaphore.add_permits(added);
        if is_full {
            return Entered::Full(waiting);
        }
        let is_running = permit.is_some();
        let turn = Turn {
            counts: self.clone(),
            key,
            permit,
        };
        match is_running {
            true => Entered::Turn(turn),
            false => Entered::Place(turn, semaphore),
        }
    }

    /// Applies other limits to the requests that wait; without one for their key all of them run.
    pub(super) fn set_limits(&self, limit_of: impl Fn(&K) -> Option<NonZeroU32>) {
        let mut raised = Vec::new();
        for (key, count) in &mut *self.keys() {
            let limit = limit_of(key).and_then(|limit| usize::try_from(limit.get()).ok());
            let limit = limit.unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
            let added = count.set_limit(limit);
            raised.push((count.semaphore.clone(), added));
        }
        for (semaphore, added) in raised {
            semaphore.add_permits(added);
        }
    }

    pub(super) fn snapshot(&self) -> Vec<(K, KeyConcurrency)> {
        let keys = self.keys();
        let rows = keys.iter().map(|(key, count)| {
            let of = KeyConcurrency {
                limit: count.limit,
                running: count.running,
                waiting: count.waiting(),
            };
            (key.clone(), of)
        });
        rows.collect()
    }

    pub(super) fn waiting(&self) -> usize {
        self.keys().values().map(Count::waiting).sum()
    }

    fn leave(&self, key: &K, permit: Option<OwnedSemaphorePermit>) {
        let mut keys = self.keys();
        let Some(count) = keys.get_mut(key) else {
            return;
        };
        count.requests -= 1;
        // Dropped without the lock, because that wakes the next request.
        let released = permit.and_then(|permit| {
            count.running -= 1;
            match count.permits > count.limit {
                true => {
                    count.permits -= 1;
                    permit.forget();
                    None
                }
                false => Some(permit),
            }
        });
        if count.requests == 0 {
            keys.remove(key);
        }
        drop(keys);
        drop(released);
    }
}

/// The turn of a request, or its place among those that wait. Dropping it gives the turn to the next
/// request of the key.
pub struct Turn<K: Clone + Eq + Hash> {
    counts: Arc<Counts<K>>,
    key: K,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Clone + Eq + Hash> Turn<K> {
    /// Its turn has come.
    pub(super) fn begin(&mut self, permit: OwnedSemaphorePermit) {
        if let Some(count) = self.counts.keys().get_mut(&self.key) {
            count.running += 1;
        }
        self.permit = Some(permit);
    }

    /// The requests of the key that wait, without this one.
    pub(super) fn others_waiting(&self) -> usize {
        let keys = self.counts.keys();
        let waiting = keys.get(&self.key).map_or(0, Count::waiting);
        waiting.saturating_sub(usize::from(self.permit.is_none()))
    }
}

impl<K: Clone + Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        self.counts.leave(&self.key, self.permit.take());
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for Turn<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("is_running", &self.permit.is_some())
            .finish_non_exhaustive()
    }
}
