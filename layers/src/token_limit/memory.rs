//! A store in this process's memory.

use std::borrow::Cow;
use std::fmt;
use std::future::{Ready, ready};
use std::hash::Hash;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::ledger::{Ledger, Reserved};
use super::saved::WindowUse;
use super::store::{Granted, ReserveResult, TokenStore};
#[cfg(feature = "redis")]
use super::window::Span;
use super::{Budget, Window};
use crate::store::{Replicas, StoreUnavailable};

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Keeps counts in this process's memory.
///
/// A restart resets them, unless the program saves them: [`take_changes`](Self::take_changes) from
/// time to time, and [`restore`](Self::restore) at the start. A reservation that was open when the
/// program ended counts nothing then.
///
/// A key takes a few hundred bytes. A key without use in the current windows is forgotten. When the
/// maximum number of keys is reached, all further keys share one account. Requests without a key share
/// another one.
#[derive(Clone)]
pub struct MemoryStore<K> {
    ledger: Arc<Mutex<Ledger<K>>>,
    clock: Clock,
    replicas: Replicas,
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
            replicas: Replicas::default(),
        }
    }

    /// Divides the budgets by the number of replicas. The states of budgets are those of the parts.
    pub fn with_replicas(self, replicas: Replicas) -> Self {
        Self { replicas, ..self }
    }

    /// The budgets as far as they are this process's.
    fn shares<'a>(&self, budgets: &'a [Budget]) -> Cow<'a, [Budget]> {
        if self.replicas.get() == NonZeroU32::MIN {
            return Cow::Borrowed(budgets);
        }
        let share = |budget: &Budget| {
            let tokens = NonZeroU64::new(self.replicas.share(budget.tokens()));
            Budget::new(tokens.unwrap_or(NonZeroU64::MIN), budget.window())
        };
        budgets.iter().map(share).collect()
    }

    /// The time, by this store's clock.
    #[cfg(feature = "redis")]
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The time, and the current window of each kind.
    #[cfg(feature = "redis")]
    pub(crate) fn spans(&self) -> (Timestamp, [Span; 3]) {
        let now = self.now();
        (now, self.ledger().spans(now))
    }

    /// Counts used tokens that nothing was reserved for.
    #[cfg(feature = "redis")]
    pub(crate) fn count(&self, key: Option<K>, budgets: &[Budget], used: u64) {
        let now = self.now();
        self.ledger().count(key, budgets, used, now);
    }

    /// As [`reserve`](TokenStore::reserve), which returns this at once.
    pub(crate) fn reserve_now(
        &self,
        key: Option<K>,
        budgets: &[Budget],
        tokens: u64,
    ) -> ReserveResult<MemoryReservation<K>> {
        let now = (self.clock)();
        let budgets = self.shares(budgets);
        let verdict = self.ledger().reserve(key, &budgets, tokens, now);
        verdict.map(|granted| Granted {
            reservation: MemoryReservation(Box::new(granted.reservation)),
            budget_states: granted.budget_states,
        })
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

    /// The used tokens of each account and window that have changed since the last call. Each row has
    /// the whole count, so a saved row replaces the one before. Windows that have ended are left out.
    /// This takes time in proportion to [`keys`](Self::keys) if anything has changed.
    ///
    /// ```
    /// use std::num::NonZeroU64;
    ///
    /// use jiff::tz::TimeZone;
    /// use llamatower_layers::token_limit::{Budget, MemoryStore, TokenStore, Window};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let budget = Budget::new(NonZeroU64::new(100).expect("not zero"), Window::Month);
    /// let store = MemoryStore::new(TimeZone::UTC);
    /// let granted = store.reserve(Some("ada"), &[budget], 10).await?.expect("nothing was used");
    /// store.settle(granted.reservation, 40);
    /// let saved = store.take_changes();
    /// assert!(store.take_changes().is_empty());
    ///
    /// let after_a_restart = MemoryStore::new(TimeZone::UTC);
    /// after_a_restart.restore(saved);
    /// let granted = after_a_restart.reserve(Some("ada"), &[budget], 0).await?.expect("60 are left");
    /// assert_eq!(granted.budget_states[0].remaining, 60);
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_changes(&self) -> Vec<WindowUse<K>> {
        let now = (self.clock)();
        self.ledger().take_changes(now)
    }

    /// Adds saved counts to those of the current windows. A row counts as long as its own window has
    /// not ended, also if the current one begins at another time because the time zone was changed.
    pub fn restore(&self, saved: impl IntoIterator<Item = WindowUse<K>>) {
        let now = (self.clock)();
        self.ledger().restore(saved, now);
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
        ready(Ok(self.reserve_now(key, budgets, tokens)))
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
