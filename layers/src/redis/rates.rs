//! Buckets of requests in Redis.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::Either;
use http::Extensions;

use super::Redis;
use super::admit::Admitted;
use super::ask::{Ask, Bucket, name_of_client};
use super::per_client::PerClient;
use crate::rate_limit::{MemoryBuckets, Quota, RateStore, TakeResult};
use crate::store::StoreUnavailable;

type NameOf<K> = dyn Fn(&K) -> String + Send + Sync;

/// Stores the buckets of [`RateLimitLayer`](crate::rate_limit::RateLimitLayer) in Redis, with the clock of
/// the server.
///
/// The rule is that of [`MemoryBuckets`], to the microsecond. A bucket expires when it is full. Quotas that
/// differ have buckets of their own. The number of keys is not limited here.
pub struct RedisBuckets<K: Clone + Hash + Eq> {
    redis: Redis,
    kind: String,
    name_of: Box<NameOf<K>>,
    buckets: PerClient<K, Bucket>,
    otherwise: Option<Arc<MemoryBuckets<K>>>,
}

impl<K: Clone + Hash + Eq> RedisBuckets<K> {
    /// Buckets of the limit `limit`, which other limits do not share. `name_of` gives each key a text that
    /// no other key has; the names of Redis' keys are hashes of it.
    pub fn new(
        redis: Redis,
        limit: &str,
        name_of: impl Fn(&K) -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            redis,
            kind: format!("rate:{limit}"),
            name_of: Box::new(name_of),
            buckets: PerClient::default(),
            otherwise: None,
        }
    }

    /// Takes from `memory` while Redis does not answer. Its buckets are full at first, and its
    /// [`Replicas`](crate::store::Replicas) should be the number of processes that share Redis.
    pub fn or_memory(self, memory: MemoryBuckets<K>) -> Self {
        let otherwise = Some(Arc::new(memory));
        Self { otherwise, ..self }
    }
}

impl<K: Clone + Hash + Eq> RedisBuckets<K> {
    /// The bucket of a key.
    pub(super) fn bucket(&self, key: Option<&K>, quota: &Quota) -> Arc<Bucket> {
        let (interval, burst) = (micros(quota), quota.burst().get());
        let is_current = |bucket: &Bucket| (bucket.interval, bucket.burst) == (interval, burst);
        self.buckets.get_or_make(key, is_current, || {
            let kind = format!("{}:{interval}:{burst}", self.kind);
            let name = name_of_client(key, &self.name_of);
            Bucket::new(self.redis.key(&kind, &name), interval, burst)
        })
    }
}

/// The microseconds to refill one request; rounded up.
fn micros(quota: &Quota) -> u64 {
    let interval = quota.interval();
    let of_the_second = u64::from(interval.subsec_nanos().div_ceil(1000));
    let of_seconds = interval.as_secs().saturating_mul(1_000_000);
    of_seconds.saturating_add(of_the_second)
}

/// The answer of the buckets in memory, if there are any and Redis has given none.
fn or_memory<K: Clone + Hash + Eq>(
    answer: Result<TakeResult, StoreUnavailable>,
    memory: Option<&MemoryBuckets<K>>,
    key: &Option<K>,
    quota: &Quota,
) -> Result<TakeResult, StoreUnavailable> {
    match (answer, memory) {
        (Err(_), Some(memory)) => Ok(memory.take_result(key, quota)),
        (answer, _) => answer,
    }
}

impl<K: Clone + Hash + Eq + Send + Sync + 'static> RateStore<K> for RedisBuckets<K> {
    /// The left future has the answer at once, and costs no allocation.
    type Taking = Either<
        Ready<Result<TakeResult, StoreUnavailable>>,
        Pin<Box<dyn Future<Output = Result<TakeResult, StoreUnavailable>> + Send>>,
    >;

    fn take(&self, key: Option<K>, quota: &Quota) -> Self::Taking {
        if let Some(memory) = self
            .otherwise
            .as_ref()
            .filter(|_| !self.redis.is_connected())
        {
            self.redis.not_sent("take");
            return Either::Left(ready(Ok(memory.take_result(&key, quota))));
        }
        let mut ask = Ask::default();
        ask.bucket(self.bucket(key.as_ref(), quota));
        let (redis, otherwise, quota) = (self.redis.clone(), self.otherwise.clone(), *quota);
        Either::Right(Box::pin(async move {
            let answer = match redis.admit("take", &mut ask).await {
                Ok(()) => ask.only_bucket(),
                Err(unavailable) => Err(unavailable),
            };
            or_memory(answer, otherwise.as_deref(), &key, &quota)
        }))
    }

    fn take_for(&self, request: &Extensions, key: Option<K>, quota: &Quota) -> Self::Taking {
        let admitted = Admitted::of(request);
        let answer =
            admitted.and_then(|admitted| admitted.bucket(&self.bucket(key.as_ref(), quota)));
        match answer {
            Some(answer) => {
                let memory = self.otherwise.as_deref();
                Either::Left(ready(or_memory(answer, memory, &key, quota)))
            }
            None => self.take(key, quota),
        }
    }

    fn set_quotas(&self, quotas: &[Quota]) {
        if let Some(memory) = &self.otherwise {
            memory.set_quotas(quotas);
        }
    }
}

impl<K: Clone + Hash + Eq> fmt::Debug for RedisBuckets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuckets")
            .field("redis", &self.redis)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
