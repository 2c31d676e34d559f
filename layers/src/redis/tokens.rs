//! Token counts in Redis.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use http::Extensions;
use jiff::tz::TimeZone;
use smallvec::SmallVec;

use super::Redis;
use super::admit::{AccountAnswer, Admitted};
use super::ask::{Account, AccountAsk, Ask, Asked, AskedBudgets, Seen, name_of_client};
use super::per_client::PerClient;
use super::settle::{Settlement, Settlements};
use crate::store::StoreUnavailable;
use crate::token_limit::{
    Budget, BudgetState, Granted, MemoryReservation, MemoryStore, ReserveResult, TokenStore, Window,
};

/// The default of [`RedisTokens::with_reservation_expiry`].
const LASTS: Duration = Duration::from_secs(30 * 60);

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
    accounts: Arc<PerClient<K, Account>>,
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
            accounts: Arc::default(),
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
    /// said last, or what this process has used, if that is more. Redis tells it with each answer about the
    /// key, and every few seconds, from the first request of the key, or the first call of this, in this
    /// process.
    pub fn used(&self, key: Option<&K>, window: Window) -> u64 {
        let own = self.memory.used(key, window);
        let start = self.memory.spans().1[window as usize].start;
        let account = self.account(key);
        let mut seen = account.seen();
        let seen = &mut seen[window as usize];
        if seen.start < start {
            *seen = Seen { start, used: 0 };
        }
        match seen.start == start {
            true => own.max(seen.used),
            // The clock of another process is ahead.
            false => own,
        }
    }

    /// The settlements that were dropped because too many waited for Redis.
    pub fn dropped_settlements(&self) -> u64 {
        self.settlements.dropped()
    }

    /// Waits until all settlements are in Redis.
    pub async fn settled(&self) {
        self.settlements.settled().await;
    }

    fn account(&self, key: Option<&K>) -> Arc<Account> {
        let mut is_new = false;
        let account = self.accounts.get_or_make(
            key,
            |_| true,
            || {
                let name = name_of_client(key, &*self.name_of);
                is_new = true;
                Account::new(self.redis.key(&self.kind, &name))
            },
        );
        if is_new {
            self.settlements.renew(&account);
        }
        account
    }
}

impl Account {
    /// Records what Redis said, for `used`.
    fn note(&self, asked: &[Asked]) {
        let mut seen = self.seen();
        for asked in asked {
            seen[asked.budget.window() as usize] = Seen {
                start: asked.start,
                used: asked.budget.tokens().saturating_sub(asked.remaining),
            };
        }
    }
}

impl Asked {
    fn state(&self) -> BudgetState {
        BudgetState {
            budget: self.budget,
            remaining: self.remaining,
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
        account: Arc<Account>,
        reservation: String,
        /// Most clients have at most two, which fit without an allocation.
        budgets: SmallVec<[Budget; 2]>,
    },
    InMemory(MemoryReservation<K>),
}

impl<K: Clone + Hash + Eq + Send + Sync + 'static> RedisTokens<K> {
    /// The budgets with their current windows.
    fn asked(&self, budgets: &[Budget]) -> AskedBudgets {
        let (now, spans) = self.memory.spans();
        let asked = budgets.iter().map(|budget| {
            let span = &spans[budget.window() as usize];
            Asked {
                budget: *budget,
                start: span.start,
                left: span.left(now),
                remaining: 0,
            }
        });
        asked.collect()
    }

    /// What is asked for a key.
    pub(super) fn ask(&self, key: Option<&K>, budgets: &[Budget], tokens: u64) -> AccountAsk {
        AccountAsk::new(
            self.account(key),
            tokens,
            self.lasts,
            self.asked(budgets),
            self.settlements.clone(),
        )
    }

    /// The result by Redis' answer; without one, that of the memory store if it is to be used.
    fn result(
        &self,
        key: Option<K>,
        budgets: &[Budget],
        tokens: u64,
        answer: Result<AccountAnswer, StoreUnavailable>,
    ) -> Result<ReserveResult<RedisReservation<K>>, StoreUnavailable> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if self.falls_back => {
                return Ok(self.reserve_in_memory(key, budgets, tokens));
            }
            Err(unavailable) => return Err(unavailable),
        };
        let AccountAnswer {
            account,
            asked,
            reservation,
        } = answer;
        account.note(&asked);
        let states = asked.iter().map(Asked::state);
        if let Some(reservation) = reservation {
            let budget_states = states.collect();
            let reserved = Reserved::InRedis {
                key,
                account,
                reservation,
                budgets: SmallVec::from_slice(budgets),
            };
            return Ok(Ok(Granted {
                reservation: RedisReservation(Box::new(reserved)),
                budget_states,
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

impl<K: Clone + Hash + Eq + Send + Sync + 'static> TokenStore<K> for RedisTokens<K> {
    type Reservation = RedisReservation<K>;
    /// The left future has the answer at once, and costs no allocation.
    type Reserving = Either<
        Ready<Result<ReserveResult<RedisReservation<K>>, StoreUnavailable>>,
        Pin<
            Box<
                dyn Future<Output = Result<ReserveResult<RedisReservation<K>>, StoreUnavailable>>
                    + Send,
            >,
        >,
    >;

    fn reserve(&self, key: Option<K>, budgets: &[Budget], tokens: u64) -> Self::Reserving {
        let store = self.clone();
        let budgets: Box<[Budget]> = budgets.into();
        let mut ask = Ask::default();
        ask.account(self.ask(key.as_ref(), &budgets, tokens));
        Either::Right(Box::pin(async move {
            let answer = match store.redis.admit("reserve", &mut ask).await {
                Ok(()) => ask.only_account(),
                Err(unavailable) => Err(unavailable),
            };
            store.result(key, &budgets, tokens, answer)
        }))
    }

    fn reserve_for(
        &self,
        request: &Extensions,
        key: Option<K>,
        budgets: &[Budget],
        tokens: u64,
    ) -> Self::Reserving {
        if let Some(admitted) = Admitted::of(request) {
            let account = self.account(key.as_ref());
            if let Some(answer) = admitted.account(&account, budgets, tokens) {
                return Either::Left(ready(self.result(key, budgets, tokens, answer)));
            }
        }
        self.reserve(key, budgets, tokens)
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
                self.memory.count(key, &budgets, used);
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
            accounts: self.accounts.clone(),
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
