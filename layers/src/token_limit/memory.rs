//! A store in this process's memory.

use std::fmt;
use std::future::{Ready, ready};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::ledger::{Ledger, Reserved};
use super::store::{Granted, ReserveResult, TokenStore};
use super::{Budget, Window};
use crate::store::StoreUnavailable;

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Keeps counts in this process's memory; a restart resets them.
///
/// A key takes a few hundred bytes. A key without use in the current windows is forgotten. When the
/// maximum number of keys is reached, all further keys share one account. Requests without a key share
/// another one.
#[derive(Clone)]
pub struct MemoryStore<K> {
    ledger: Arc<Mutex<Ledger<K>>>,
    clock: Clock,
}

impl<K: Hash + Eq + Clone> MemoryStore<K> {
    /// The default limit of keys with their own account; see
    /// [`with_max_keys`](Self::with_max_keys).
    pub const DEFAULT_MAX_KEYS: usize = 10_000;

    /// A store whose days and months begin at midnight in `zone`.
    pub fn new(zone: TimeZone) -> Self {
        Self::with_clock(zone, Timestamp::now)
    }

    /// Like [`new`](Self::new), with another clock, for tests and simulations.
    pub fn with_clock(
        zone: TimeZone,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let ledger = Ledger::new(zone, Self::DEFAULT_MAX_KEYS, clock());
        Self {
            ledger: Arc::new(Mutex::new(ledger)),
            clock: Arc::new(clock),
        }
    }

    /// Limits the number of keys with their own account, and so the memory.
    pub fn with_max_keys(self, max_keys: NonZeroUsize) -> Self {
        self.ledger().set_max_keys(max_keys.get());
        self
    }

    /// The number of keys with their own account.
    pub fn keys(&self) -> usize {
        self.ledger().keys()
    }

    /// The tokens that a key has used in the current window, those of open reservations included;
    /// `None` are the requests without a key. It is 0 for a key that shares an account with others.
    pub fn used(&self, key: Option<&K>, window: Window) -> u64 {
        let now = (self.clock)();
        self.ledger().used(key, window, now)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger<K>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reservation of a request in a [`MemoryStore`].
#[derive(Debug)]
// Boxed: every response has room for a reservation, also without a limit.
pub struct MemoryReservation<K>(Box<Reserved<K>>);

impl<K: Hash + Eq + Clone> TokenStore<K> for MemoryStore<K> {
    type Reservation = MemoryReservation<K>;
    type Reserving = Ready<Result<ReserveResult<Self::Reservation>, StoreUnavailable>>;

    fn reserve(&self, key: Option<K>, budgets: &[Budget], tokens: u64) -> Self::Reserving {
        let now = (self.clock)();
        let verdict = self.ledger().reserve(key, budgets, tokens, now);
        ready(Ok(verdict.map(|granted| Granted {
            reservation: MemoryReservation(Box::new(granted.reservation)),
            budget_states: granted.budget_states,
        })))
    }

    fn settle(&self, reservation: Self::Reservation, used: u64) {
        self.ledger().settle(*reservation.0, used);
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for MemoryStore<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("keys", &self.keys())
            .finish_non_exhaustive()
    }
}
