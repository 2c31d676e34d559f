//! The buckets: one for all requests, or one for each key with limited memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use governor::RateLimiter;
use governor::clock::Clock;
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};

use super::Quota;
use super::clock::TokioClock;
use super::store::TakeResult;

type Refused = governor::NotUntil<Nanos>;

fn take_result(clock: &TokioClock, checked: Result<StateSnapshot, Refused>) -> TakeResult {
    checked
        .map(|state| state.remaining_burst_capacity())
        .map_err(|until| until.wait_time_from(clock.now()))
}

/// A bucket for each key, and one for requests without a key.
pub(super) struct Buckets<K: Clone + Hash + Eq> {
    limiter: RateLimiter<Option<K>, States<K>, TokioClock, StateInformationMiddleware>,
    burst: NonZeroU32,
    states: States<K>,
}

impl<K: Clone + Hash + Eq> Buckets<K> {
    pub(super) fn new(quota: Quota, max_keys: usize) -> Self {
        let states = States(Arc::new(Shared {
            max_keys: AtomicUsize::new(max_keys),
            newcomers: AtomicUsize::new(0),
            by_key: RwLock::default(),
            overflow: InMemoryState::default(),
            without_key: InMemoryState::default(),
        }));
        Self {
            burst: quota.burst(),
            limiter: RateLimiter::new(quota.into(), states.clone(), TokioClock::new()),
            states,
        }
    }

    /// Takes `cost` units, at most as many as the bucket holds. The remaining requests have the same
    /// cost.
    pub(super) fn take(&self, key: &Option<K>, cost: NonZeroU32) -> TakeResult {
        let clock = self.limiter.clock();
        let take_result = match cost.get() {
            1 => take_result(clock, self.limiter.check_key(key)),
            _ => {
                let cost = cost.min(self.burst);
                // It never takes more than the bucket holds, so the outer result is `Ok`.
                let checked = self.limiter.check_key_n(key, cost);
                let taken = checked.map(|checked| take_result(clock, checked));
                taken.unwrap_or(Ok(0)).map(|remaining| remaining / cost)
            }
        };
        if self.states.is_sweep_due() {
            self.limiter.retain_recent();
        }
        take_result
    }

    pub(super) fn set_max_keys(&self, max_keys: usize) {
        self.states.0.max_keys.store(max_keys, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }
}

/// The states of known keys, one that further keys share if the limit is reached, and one that all
/// requests without a key share.
struct States<K>(Arc<Shared<K>>);

struct Shared<K> {
    max_keys: AtomicUsize,
    /// New keys since the last sweep.
    newcomers: AtomicUsize,
    by_key: RwLock<HashMap<K, InMemoryState>>,
    overflow: InMemoryState,
    without_key: InMemoryState,
}

impl<K> Clone for States<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Hash + Eq> States<K> {
    /// Whether a sweep, which visits every key, is due. It is due after so many new keys that each
    /// of them pays for at most four visits, whatever clients send.
    fn is_sweep_due(&self) -> bool {
        let newcomers = self.0.newcomers.load(Ordering::Relaxed);
        newcomers >= 64 && newcomers >= self.len() / 4
    }
}

impl<K: Clone + Hash + Eq> StateStore for States<K> {
    type Key = Option<K>;

    fn measure_and_replace<T, F, E>(&self, key: &Option<K>, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let shared = &*self.0;
        let Some(key) = key else {
            return shared.without_key.measure_and_replace(&NotKeyed::NonKey, f);
        };
        let known = shared.by_key.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = known.get(key) {
            return state.measure_and_replace(&NotKeyed::NonKey, f);
        }
        drop(known);

        shared.newcomers.fetch_add(1, Ordering::Relaxed);
        let mut known = shared
            .by_key
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let has_room = known.len() < shared.max_keys.load(Ordering::Relaxed);
        let state = if has_room || known.contains_key(key) {
            known.entry(key.clone()).or_default()
        } else {
            &shared.overflow
        };
        state.measure_and_replace(&NotKeyed::NonKey, f)
    }
}

impl<K: Clone + Hash + Eq> ShrinkableKeyedStateStore<Option<K>> for States<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut known = self
            .0
            .by_key
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, state| !is_older(state, drop_below));
        self.0.newcomers.store(0, Ordering::Relaxed);
    }

    fn len(&self) -> usize {
        self.0
            .by_key
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether a bucket has been full for so long that it equals a new one.
fn is_older(state: &InMemoryState, than: Nanos) -> bool {
    // The state is only accessible through an update; an `Err` leaves it unchanged.
    let read = |full_at: Option<Nanos>| Err(full_at.is_none_or(|full_at| full_at <= than));
    state
        .measure_and_replace::<(), _, _>(&NotKeyed::NonKey, read)
        .is_err_and(|older| older)
}
