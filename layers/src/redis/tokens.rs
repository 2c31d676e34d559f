//! Token counts in Redis.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::settle::{Settlement, Settlements};
use super::{Redis, RedisScript};
use crate::store::StoreUnavailable;
use crate::token_limit::{
    Budget, BudgetState, Granted, MemoryReservation, MemoryStore, ReserveResult, TokenStore, Window,
};

static RESERVE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("reserve.lua")));

/// The default of [`RedisTokens::with_reservation_expiry`].
const LASTS: Duration = Duration::from_secs(30 * 60);

/// The number of keys whose last known counts are kept for [`RedisTokens::used`].
const SEEN_KEYS: usize = 10_000;

type NameOf<K> = dyn Fn(&K) -> String + Send + Sync;

/// Stores the counts of [`TokenLimitLayer`](crate::token_limit::TokenLimitLayer) in Redis.
///
/// All budgets of a key are reserved in one step, or none. Windows are those of [`MemoryStore`], by the
/// clock of this process. Settlements are sent in the background, several at a time; while Redis does not
/// answer they wait, at most 4096 of them. Counts expire a minute after their last window has ended.
///
/// What this process uses is also counted in a [`MemoryStore`]: for [`or_memory`](Self::or_memory).
pub struct RedisTokens<K> {
    redis: Redis,
    kind: Arc<str>,
    name_of: Arc<NameOf<K>>,
    zone: TimeZone,
    memory: MemoryStore<K>,
    falls_back: bool,
    lasts: Duration,
    settlements: Settlements,
    seen: Arc<Mutex<HashMap<Option<K>, [Seen; 3]>>>,
}

/// The used and reserved tokens of a window by Redis' last answer.
#[derive(Clone, Copy, Default)]
struct Seen {
    start: Timestamp,
    used: u64,
}

impl<K: Clone + Hash + Eq> RedisTokens<K> {
    /// Counts of the limit `limit`, which other limits do not share. `name_of` gives each key a text that
    /// no other key has; the names of Redis' keys are hashes of it. Days begin at midnight in `zone`, which
    /// is that of `memory` too.
    pub fn new(
        redis: Redis,
        limit: &str,
        zone: TimeZone,
        memory: MemoryStore<K>,
        name_of: impl Fn(&K) -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            settlements: Settlements::start(redis.clone()),
            redis,
            kind: format!("tokens:{limit}").into(),
            name_of: Arc::new(name_of),
            zone,
            memory,
            falls_back: false,
            lasts: LASTS,
            seen: Arc::default(),
        }
    }

    /// Reserves in the memory store while Redis does not answer. What this process has used before counts
    /// there. The store's [`Replicas`](crate::store::Replicas) should be the number of processes that
    /// share Redis.
    pub fn or_memory(self) -> Self {
        Self {
            falls_back: true,
            ..self
        }
    }

    /// When a reservation expires whose process has died; by default after 30 minutes. The tokens of a
    /// longer stream are counted nevertheless.
    pub fn with_reservation_expiry(self, lasts: Duration) -> Self {
        Self { lasts, ..self }
    }

    /// What this process has used, also with Redis.
    pub fn memory(&self) -> &MemoryStore<K> {
        &self.memory
    }

    /// The tokens that a key has used in the current window, those of open reservations included: what Redis
    /// said at this process's last request of the key, or what this process has used, if that is more.
    pub fn used(&self, key: Option<&K>, window: Window) -> u64 {
        let own = self.memory.used(key, window);
        let start = window.span(self.memory.now(), &self.zone).start;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.get(&key.cloned()).map(|seen| seen[window as usize]);
        let seen = seen.filter(|seen| seen.start == start);
        own.max(seen.map_or(0, |seen| seen.used))
    }

    /// The settlements that were dropped because too many waited for Redis.
    pub fn dropped_settlements(&self) -> u64 {
        self.settlements.dropped()
    }

    /// Waits until all settlements are in Redis.
    pub async fn settled(&self) {
        self.settlements.settled().await;
    }

    fn account(&self, key: Option<&K>) -> String {
        let name = match key {
            Some(key) => format!("key {}", (self.name_of)(key)),
            None => "none".to_owned(),
        };
        self.redis.key(&self.kind, &name)
    }

    /// Records what Redis said, for `used`.
    fn note(&self, key: Option<&K>, asked: &[Asked], lefts: &[u64]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_KEYS && !seen.contains_key(&key.cloned()) {
            seen.clear();
        }
        let seen = seen.entry(key.cloned()).or_default();
        for (asked, left) in asked.iter().zip(lefts) {
            seen[asked.budget.window() as usize] = Seen {
                start: asked.start,
                used: asked.budget.tokens().saturating_sub(*left),
            };
        }
    }

    fn settle_in_memory(&self, key: Option<K>, budgets: &[Budget], used: u64) {
        if let Ok(granted) = self.memory.reserve_now(key, budgets, 0) {
            self.memory.settle(granted.reservation, used);
        }
    }
}

/// A budget with its current window.
#[derive(Clone, Copy)]
struct Asked {
    budget: Budget,
    start: Timestamp,
    left: Duration,
}

impl Asked {
    fn state(&self, remaining: u64) -> BudgetState {
        BudgetState {
            budget: self.budget,
            remaining,
            reset: self.left,
        }
    }
}

/// The reservation of a request in [`RedisTokens`].
// Boxed: every response has room for a reservation, also without a limit.
#[derive(Debug)]
pub struct RedisReservation<K>(Box<Reserved<K>>);

#[derive(Debug)]
enum Reserved<K> {
    InRedis {
        key: Option<K>,
        account: String,
        reservation: String,
        budgets: Box<[Budget]>,
    },
    InMemory(MemoryReservation<K>),
}

impl<K: Clone + Hash + Eq + Send + Sync + 'static> RedisTokens<K> {
    async fn ask(
        &self,
        key: Option<&K>,
        asked: &[Asked],
        tokens: u64,
    ) -> Result<ReserveResult<RedisReservation<K>>, StoreUnavailable> {
        let account = self.account(key);
        let open = format!("{account}:open");
        let answer: Vec<String> = self
            .redis
            .call("reserve", async |mut connection| {
                let mut call = RESERVE.0.prepare_invoke();
                call.key(&account).key(&open);
                call.arg(id())
                    .arg(tokens)
                    .arg(self.lasts.as_millis().to_string());
                for asked in asked {
                    call.arg(asked.budget.window().name());
                    call.arg(asked.budget.tokens());
                    call.arg(asked.start.as_second());
                    call.arg(asked.left.as_millis().to_string());
                }
                call.invoke_async(&mut connection).await
            })
            .await?;
        let [granted, reservation, lefts @ ..] = &*answer else {
            return Err(StoreUnavailable::new("Redis: an unexpected response"));
        };
        let lefts: Vec<u64> = lefts.iter().map(|left| left.parse().unwrap_or(0)).collect();
        self.note(key, asked, &lefts);
        let states = asked.iter().zip(&lefts);
        let states = states.map(|(asked, left)| asked.state(*left));
        if granted == "1" {
            let budgets = asked.iter().map(|asked| asked.budget).collect();
            return Ok(Ok(Granted {
                reservation: RedisReservation(Box::new(Reserved::InRedis {
                    key: key.cloned(),
                    account,
                    reservation: reservation.clone(),
                    budgets,
                })),
                budget_states: states.collect(),
            }));
        }
        let exhausted = states.filter(|state| state.remaining < tokens.min(state.budget.tokens()));
        match exhausted.max_by_key(|state| state.reset) {
            Some(refusal) => Ok(Err(refusal)),
            None => Err(StoreUnavailable::new("Redis: an unexpected response")),
        }
    }

    fn reserve_in_memory(
        &self,
        key: Option<K>,
        budgets: &[Budget],
        tokens: u64,
    ) -> ReserveResult<RedisReservation<K>> {
        let verdict = self.memory.reserve_now(key, budgets, tokens);
        verdict.map(|granted| Granted {
            reservation: RedisReservation(Box::new(Reserved::InMemory(granted.reservation))),
            budget_states: granted.budget_states,
        })
    }
}

/// Unique among all processes: a random part for each process, and a number.
fn id() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| {
        // The seed of the standard library's maps, which is random for each process.
        use std::hash::{BuildHasher, RandomState};
        let now = Timestamp::now().as_nanosecond();
        RandomState::new().hash_one((std::process::id(), now))
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{:016x}-{:x}",
        *PROCESS,
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

impl<K: Clone + Hash + Eq + Send + Sync + 'static> TokenStore<K> for RedisTokens<K> {
    type Reservation = RedisReservation<K>;
    type Reserving = Pin<
        Box<
            dyn Future<Output = Result<ReserveResult<RedisReservation<K>>, StoreUnavailable>>
                + Send,
        >,
    >;

    fn reserve(&self, key: Option<K>, budgets: &[Budget], tokens: u64) -> Self::Reserving {
        let now = self.memory.now();
        let asked = budgets.iter().map(|budget| {
            let span = budget.window().span(now, &self.zone);
            Asked {
                budget: *budget,
                start: span.start,
                left: span.left(now),
            }
        });
        let asked: Vec<Asked> = asked.collect();
        let store = self.clone();
        Box::pin(async move {
            let answer = store.ask(key.as_ref(), &asked, tokens).await;
            match answer {
                Err(_) if store.falls_back => {
                    let budgets: Vec<Budget> = asked.iter().map(|asked| asked.budget).collect();
                    Ok(store.reserve_in_memory(key, &budgets, tokens))
                }
                answer => answer,
            }
        })
    }

    fn settle(&self, reservation: Self::Reservation, used: u64) {
        match *reservation.0 {
            Reserved::InMemory(reservation) => self.memory.settle(reservation, used),
            Reserved::InRedis {
                key,
                account,
                reservation,
                budgets,
            } => {
                self.settle_in_memory(key, &budgets, used);
                self.settlements.send(Settlement {
                    account,
                    reservation,
                    used,
                });
            }
        }
    }
}

impl<K: Clone> Clone for RedisTokens<K> {
    fn clone(&self) -> Self {
        Self {
            redis: self.redis.clone(),
            kind: self.kind.clone(),
            name_of: self.name_of.clone(),
            zone: self.zone.clone(),
            memory: self.memory.clone(),
            falls_back: self.falls_back,
            lasts: self.lasts,
            settlements: self.settlements.clone(),
            seen: self.seen.clone(),
        }
    }
}

impl<K> fmt::Debug for RedisTokens<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTokens")
            .field("redis", &self.redis)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
