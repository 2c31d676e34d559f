//! The stores of limits: in memory, or in Redis.

use std::future::{Future, Ready, ready};
use std::hash::Hash;
use std::pin::Pin;

use futures_util::future::Either;
use http::Extensions;
use llamatower_layers::rate_limit::{MemoryBuckets, Quota, RateStore, TakeResult};
use llamatower_layers::redis::{RedisBuckets, RedisReservation, RedisTokens};
use llamatower_layers::store::StoreUnavailable;
use llamatower_layers::token_limit::{
    Budget, Granted, MemoryReservation, MemoryStore, ReserveResult, TokenStore, Window,
};

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, StoreUnavailable>> + Send>>;
type Now<T> = Ready<Result<T, StoreUnavailable>>;
type NowOrLater<T> = Either<Now<T>, Boxed<T>>;

/// The buckets of a limit of requests.
#[derive(Debug)]
pub enum Rates<K: Clone + Hash + Eq> {
    /// In this process's memory.
    Own(MemoryBuckets<K>),
    /// In Redis.
    Shared(RedisBuckets<K>),
}

impl<K: Clone + Hash + Eq> Rates<K> {
    /// The buckets, if they are in Redis.
    pub fn in_redis(&self) -> Option<&RedisBuckets<K>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(buckets) => Some(buckets),
        }
    }
}

impl<K: Clone + Hash + Eq + Send + Sync + 'static> RateStore<K> for Rates<K> {
    type Taking = NowOrLater<TakeResult>;

    fn take(&self, key: Option<K>, quota: &Quota) -> Self::Taking {
        match self {
            Self::Own(buckets) => Either::Left(buckets.take(key, quota)),
            Self::Shared(buckets) => buckets.take(key, quota),
        }
    }

    fn take_for(&self, request: &Extensions, key: Option<K>, quota: &Quota) -> Self::Taking {
        match self {
            Self::Own(buckets) => Either::Left(buckets.take(key, quota)),
            Self::Shared(buckets) => buckets.take_for(request, key, quota),
        }
    }

    fn set_quotas(&self, quotas: &[Quota]) {
        match self {
            Self::Own(buckets) => buckets.set_quotas(quotas),
            Self::Shared(buckets) => buckets.set_quotas(quotas),
        }
    }
}

/// The counts of a limit of tokens. Clones share them.
#[derive(Clone, Debug)]
pub enum Tokens<K: Clone + Hash + Eq> {
    /// In this process's memory.
    Own(MemoryStore<K>),
    /// In Redis.
    Shared(RedisTokens<K>),
}

/// A reservation in [`Tokens`].
#[derive(Debug)]
pub enum Reservation<K> {
    /// In memory.
    Own(MemoryReservation<K>),
    /// In Redis.
    Shared(RedisReservation<K>),
}

impl<K: Clone + Hash + Eq> Tokens<K> {
    /// The counts, if they are in Redis.
    pub fn in_redis(&self) -> Option<&RedisTokens<K>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(store) => Some(store),
        }
    }

    /// What this process has used, which is kept over a restart.
    pub fn own(&self) -> &MemoryStore<K> {
        match self {
            Self::Own(store) => store,
            Self::Shared(store) => store.memory(),
        }
    }

    /// The used tokens of the current window, as far as this process knows; see
    /// [`RedisTokens::used`].
    pub fn used(&self, key: Option<&K>, window: Window) -> u64 {
        match self {
            Self::Own(store) => store.used(key, window),
            Self::Shared(store) => store.used(key, window),
        }
    }

    /// The settlements that were dropped because too many waited for Redis.
    pub fn dropped_settlements(&self) -> u64 {
        match self {
            Self::Own(_) => 0,
            Self::Shared(store) => store.dropped_settlements(),
        }
    }

    /// Waits until all settlements are counted.
    pub async fn settled(&self) {
        if let Self::Shared(store) = self {
            store.settled().await;
        }
    }
}

/// Wraps the reservation of a store.
fn wrap<R, S>(result: ReserveResult<R>, wrap: impl FnOnce(R) -> S) -> ReserveResult<S> {
    result.map(|granted| Granted {
        reservation: wrap(granted.reservation),
        budget_states: granted.budget_states,
    })
}

fn reserve_own<K: Clone + Hash + Eq>(
    store: &MemoryStore<K>,
    key: Option<K>,
    budgets: &[Budget],
    tokens: u64,
) -> Now<ReserveResult<Reservation<K>>> {
    let reserved = store.reserve(key, budgets, tokens).into_inner();
    ready(reserved.map(|result| wrap(result, Reservation::Own)))
}

fn shared<K: 'static>(
    reserving: NowOrLater<ReserveResult<RedisReservation<K>>>,
) -> NowOrLater<ReserveResult<Reservation<K>>> {
    let wrap = |result| wrap(result, Reservation::Shared);
    match reserving {
        Either::Left(reserved) => Either::Left(ready(reserved.into_inner().map(wrap))),
        Either::Right(reserving) => {
            Either::Right(Box::pin(async move { Ok(wrap(reserving.await?)) }))
        }
    }
}

impl<K: Clone + Hash + Eq + Send + Sync + 'static> TokenStore<K> for Tokens<K> {
    type Reservation = Reservation<K>;
    type Reserving = NowOrLater<ReserveResult<Reservation<K>>>;

    fn reserve(&self, key: Option<K>, budgets: &[Budget], tokens: u64) -> Self::Reserving {
        match self {
            Self::Own(store) => Either::Left(reserve_own(store, key, budgets, tokens)),
            Self::Shared(store) => shared(store.reserve(key, budgets, tokens)),
        }
    }

    fn reserve_for(
        &self,
        request: &Extensions,
        key: Option<K>,
        budgets: &[Budget],
        tokens: u64,
    ) -> Self::Reserving {
        match self {
            Self::Own(store) => Either::Left(reserve_own(store, key, budgets, tokens)),
            Self::Shared(store) => shared(store.reserve_for(request, key, budgets, tokens)),
        }
    }

    fn settle(&self, reservation: Self::Reservation, used: u64) {
        match (self, reservation) {
            (Self::Own(store), Reservation::Own(reservation)) => store.settle(reservation, used),
            (Self::Shared(store), Reservation::Shared(reservation)) => {
                store.settle(reservation, used);
            }
            // A store settles only what it has reserved.
            _ => {}
        }
    }
}
