//! The layer; it owns the store.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::request::Parts;
use tower_layer::Layer;

use super::store::{MemoryBuckets, RateStore, TakeResult};
use super::{Quota, RateLimitService, RateLimited, Scope};
use crate::Failure;
use crate::live::Live;
use crate::order;
use crate::service::{Hook, Selector};
use crate::store::{NoLimitKey, StorePolicy, StoreUnavailable, WhenUnavailable, WithoutKey};

/// The number of keys with a bucket of their own.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);

/// The common data of all requests.
#[derive(Clone)]
pub(super) struct Limit<K, X> {
    pub(super) key_of: X,
    pub(super) counts: Option<Selector>,
    pub(super) without_key: WithoutKey,
    pub(super) policy: StorePolicy,
    pub(super) rules: Live<Rules<K>>,
    scope: Scope,
}

impl<K, X: Fn(&Parts) -> Option<K>> Limit<K, X> {
    /// The key of a request as the store gets it; `None` for a request that is not counted.
    pub(super) fn key(&self, request: &Parts) -> Result<Option<Option<K>>, NoLimitKey> {
        match &self.counts {
            Some(counts) if !counts(request) => Ok(None),
            _ => self.without_key.settle((self.key_of)(request)),
        }
    }
}

/// The quotas of keys.
#[derive(Debug)]
pub(super) struct Rules<K> {
    own: HashMap<K, Rule>,
    others: Option<Rule>,
}

/// A quota and its header value.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    scope: Scope,
    pub(super) quota: Quota,
    policy: Option<HeaderValue>,
}

/// The state of a bucket after a request has passed.
#[derive(Debug)]
pub(super) struct BucketState {
    pub(super) policy: Option<HeaderValue>,
    pub(super) scope: Scope,
    pub(super) remaining: u32,
    /// Time until the bucket is full, without further requests.
    pub(super) reset: Duration,
}

impl Rule {
    fn new(scope: Scope, quota: Quota) -> Self {
        Self {
            scope,
            quota,
            policy: quota.policy(scope.name()),
        }
    }

    /// The bucket's state by the store's response, if it has responded.
    pub(super) fn state(
        self,
        answer: Result<Option<TakeResult>, StoreUnavailable>,
    ) -> Result<Option<BucketState>, Failure> {
        let state = answer?
            .map(|take_result| self.check(take_result))
            .transpose();
        state.map_err(Failure::from)
    }

    fn check(self, take_result: TakeResult) -> Result<BucketState, RateLimited> {
        let (scope, quota) = (self.scope, self.quota);
        match take_result {
            Ok(remaining) => Ok(BucketState {
                policy: self.policy,
                scope,
                remaining,
                reset: quota.refill(quota.burst().get().saturating_sub(remaining)),
            }),
            Err(retry_after) => Err(RateLimited {
                scope,
                quota,
                retry_after,
            }),
        }
    }
}

impl<K: Hash + Eq> Rules<K> {
    fn new(scope: Scope, own: impl IntoIterator<Item = (K, Quota)>, others: Option<Quota>) -> Self {
        let rule = |quota| Rule::new(scope, quota);
        let own = own.into_iter().map(|(key, quota)| (key, rule(quota)));
        Self {
            own: own.collect(),
            others: others.map(rule),
        }
    }

    /// Whether no key has a limit.
    pub(super) fn is_unlimited(&self) -> bool {
        self.own.is_empty() && self.others.is_none()
    }

    /// The rule for a key, or for all requests without a key, if there is one.
    pub(super) fn rule(&self, key: Option<&K>) -> Option<&Rule> {
        // Most configurations have no rules for single keys, and then need no hash.
        let own = match self.own.is_empty() {
            true => None,
            false => key.and_then(|key| self.own.get(key)),
        };
        own.or(self.others.as_ref())
    }
}

/// Refuses requests beyond a [`Quota`]. See the [module](super).
///
/// All services of a layer and its clones share the buckets.
pub struct RateLimitLayer<K, X, T> {
    pub(super) limit: Arc<Limit<K, X>>,
    pub(super) store: Arc<T>,
}

impl RateLimitLayer<(), fn(&Parts) -> Option<()>, MemoryBuckets<()>> {
    /// One quota for all requests together; `None` for no limit until
    /// [`set_quotas`](Self::set_quotas).
    pub fn global(quota: impl Into<Option<Quota>>) -> Self {
        let quota = quota.into();
        let store = MemoryBuckets::new(quota, NonZeroUsize::MIN);
        Self::with_rules(store, Scope::Global, [], quota, |_| Some(()))
    }
}

impl<K: Clone + Hash + Eq, X: Fn(&Parts) -> Option<K>> RateLimitLayer<K, X, MemoryBuckets<K>> {
    /// The default of [`with_max_keys`](Self::with_max_keys).
    pub const DEFAULT_MAX_KEYS: usize = MAX_KEYS.get();

    /// A quota for each key. Requests for which `key_of` returns `None` together have one such quota
    /// ([`without_key`](Self::without_key)).
    ///
    /// The key should be something that a client cannot choose freely: the identity of a verified
    /// credential, or the address of its connection.
    pub fn per_key(quota: Quota, key_of: X) -> Self {
        Self::per_key_with([], Some(quota), key_of)
    }

    /// The quotas `own` for their keys, and the same quota for each of the `others`; without one,
    /// others and requests without a key pass.
    pub fn per_key_with(
        own: impl IntoIterator<Item = (K, Quota)>,
        others: Option<Quota>,
        key_of: X,
    ) -> Self {
        let own: HashMap<K, Quota> = own.into_iter().collect();
        let quotas = own.values().copied().chain(others);
        let store = MemoryBuckets::new(quotas, MAX_KEYS);
        Self::with_store(store, own, others, key_of)
    }

    /// Limits the number of keys with their own bucket, and so the memory.
    pub fn with_max_keys(self, max_keys: NonZeroUsize) -> Self {
        self.store.set_max_keys(max_keys.get());
        self
    }

    /// The current number of keys with their own bucket.
    pub fn keys(&self) -> usize {
        self.store.len()
    }
}

impl<K: Hash + Eq, X: Fn(&Parts) -> Option<K>, T: RateStore<K>> RateLimitLayer<K, X, T> {
    /// The same with buckets in `store`.
    pub fn with_store(
        store: T,
        own: impl IntoIterator<Item = (K, Quota)>,
        others: Option<Quota>,
        key_of: X,
    ) -> Self {
        Self::with_rules(store, Scope::Key, own, others, key_of)
    }

    /// One quota for all requests that `key_of` gives a key, with the bucket in `store`; `None` for no
    /// limit until [`set_quotas`](Self::set_quotas).
    pub fn global_with_store(store: T, quota: Option<Quota>, key_of: X) -> Self {
        Self::with_rules(store, Scope::Global, [], quota, key_of)
    }

    #[cfg(feature = "redis")]
    pub(crate) fn store(&self) -> &T {
        &self.store
    }

    /// What a request takes from the store: the key and its quota; `None` if it is not counted.
    ///
    /// # Errors
    /// The layer refuses the request because it has no key.
    #[cfg(feature = "redis")]
    pub(crate) fn takes(&self, request: &Parts) -> Result<Option<(Option<K>, Quota)>, NoLimitKey> {
        let rules = self.limit.rules.get();
        if rules.is_unlimited() {
            return Ok(None);
        }
        let Some(key) = self.limit.key(request)? else {
            return Ok(None);
        };
        let rule = rules.rule(key.as_ref());
        Ok(rule.map(|rule| (key, rule.quota)))
    }

    /// Replaces the quotas, for all services of this layer and its clones. For an unchanged quota,
    /// earlier requests still count.
    pub fn set_quotas(&self, own: impl IntoIterator<Item = (K, Quota)>, others: Option<Quota>) {
        let own: HashMap<K, Quota> = own.into_iter().collect();
        let quotas: Vec<Quota> = own.values().copied().chain(others).collect();
        self.store.set_quotas(&quotas);
        let rules = Rules::new(self.limit.scope, own, others);
        self.limit.rules.set(rules);
    }

    /// Sets the policy's name in the headers, for use with several policies per key.
    pub fn named(self, name: &'static str) -> Self
    where
        K: Clone,
        X: Clone,
    {
        let scope = Scope::Named(name);
        let rules = self.limit.rules.get();
        let quotas = rules
            .own
            .iter()
            .map(|(key, rule)| (key.clone(), rule.quota));
        let others = rules.others.as_ref().map(|rule| rule.quota);
        let renamed = Rules::new(scope, quotas, others);
        drop(rules);
        let limit = Limit {
            key_of: self.limit.key_of.clone(),
            counts: self.limit.counts.clone(),
            without_key: self.limit.without_key,
            policy: self.limit.policy,
            rules: Live::new(renamed),
            scope,
        };
        Self {
            limit: Arc::new(limit),
            store: self.store,
        }
    }

    fn with_rules(
        store: T,
        scope: Scope,
        own: impl IntoIterator<Item = (K, Quota)>,
        others: Option<Quota>,
        key_of: X,
    ) -> Self {
        Self {
            limit: Arc::new(Limit {
                key_of,
                counts: None,
                without_key: WithoutKey::default(),
                policy: StorePolicy::default(),
                rules: Live::new(Rules::new(scope, own, others)),
                scope,
            }),
            store: Arc::new(store),
        }
    }
}

impl<K: Clone, X: Clone, T> RateLimitLayer<K, X, T> {
    /// The default of [`with_deadline`](Self::with_deadline).
    pub const DEFAULT_DEADLINE: Duration = StorePolicy::DEFAULT_DEADLINE;

    /// Limits only the requests that `counts` selects; others pass. By default, all are limited.
    pub fn with_requests(
        mut self,
        counts: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.limit).counts = Some(Hook(Arc::new(counts)));
        self
    }

    /// What happens to requests without a key; by default they share one quota.
    pub fn without_key(mut self, without_key: WithoutKey) -> Self {
        Arc::make_mut(&mut self.limit).without_key = without_key;
        self
    }

    /// Time-out of the store's response; the in-memory store responds at once.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        Arc::make_mut(&mut self.limit).policy.deadline = deadline;
        self
    }

    /// What happens to requests while the store does not respond; by default they pass.
    pub fn when_unavailable(mut self, when_unavailable: WhenUnavailable) -> Self {
        Arc::make_mut(&mut self.limit).policy.when_unavailable = when_unavailable;
        self
    }
}

impl<K, X, T> Clone for RateLimitLayer<K, X, T> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit.clone(),
            store: self.store.clone(),
        }
    }
}

impl<S, K, X, T> Layer<S> for RateLimitLayer<K, X, T> {
    type Service = RateLimitService<S, K, X, T>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("RateLimit");
        RateLimitService {
            inner,
            layer: self.clone(),
        }
    }
}

impl<K, X, T: fmt::Debug> fmt::Debug for RateLimitLayer<K, X, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("others", &self.limit.rules.get().others)
            .field("own", &self.limit.rules.get().own.len())
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
