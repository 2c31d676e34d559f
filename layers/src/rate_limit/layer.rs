//! The layer, which owns the store.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::request::Parts;
use tower_layer::Layer;

use super::store::{MemoryBuckets, RateStore, Verdict};
use super::{Quota, RateLimitService, RateLimited, Scope};
use crate::Failure;
use crate::live::Live;
use crate::store::{Patience, StoreUnavailable, WhenUnavailable};

/// What is the same for all requests.
#[derive(Clone)]
pub(super) struct Limit<K, X> {
    pub(super) key_of: X,
    pub(super) patience: Patience,
    pub(super) rules: Live<Rules<K>>,
    scope: Scope,
}

/// Who has which quota.
#[derive(Debug)]
pub(super) struct Rules<K> {
    own: HashMap<K, Rule>,
    others: Option<Rule>,
}

/// A quota, and how it stands in a header.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    scope: Scope,
    pub(super) quota: Quota,
    policy: Option<HeaderValue>,
}

/// Where a request that passed has left its bucket.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) policy: Option<HeaderValue>,
    pub(super) scope: Scope,
    pub(super) remaining: u32,
    /// After how long the bucket is full, if nothing more comes.
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

    /// Where the bucket stands by the store's answer, if it has given one.
    pub(super) fn standing(
        self,
        answer: Result<Option<Verdict>, StoreUnavailable>,
    ) -> Result<Option<Standing>, Failure> {
        let standing = answer?.map(|verdict| self.judge(verdict)).transpose();
        standing.map_err(Failure::from)
    }

    fn judge(self, verdict: Verdict) -> Result<Standing, RateLimited> {
        let (scope, quota) = (self.scope, self.quota);
        match verdict {
            Ok(remaining) => Ok(Standing {
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
    pub(super) fn are_none(&self) -> bool {
        self.own.is_empty() && self.others.is_none()
    }

    /// The rule for a key, if there is one.
    pub(super) fn rule(&self, key: &K) -> Option<Rule> {
        // Most have no keys with a rule of their own, and need not be hashed for that.
        let own = match self.own.is_empty() {
            true => None,
            false => self.own.get(key),
        };
        own.or(self.others.as_ref()).cloned()
    }
}

/// Refuses requests beyond a [`Quota`]. See the [module](super).
///
/// All services of one layer and of its clones share its buckets.
pub struct RateLimitLayer<K, X, T> {
    pub(super) limit: Arc<Limit<K, X>>,
    pub(super) store: Arc<T>,
}

impl RateLimitLayer<(), fn(&Parts) -> Option<()>, MemoryBuckets<()>> {
    /// One quota for all requests together.
    pub fn global(quota: Quota) -> Self {
        Self::global_of(Some(quota), |_| Some(()))
    }

    /// One quota, or none yet, for all those requests together for which `counts` gives something.
    pub fn global_of(quota: Option<Quota>, counts: fn(&Parts) -> Option<()>) -> Self {
        let store = MemoryBuckets::new(quota, 1);
        Self::with_rules(store, Scope::Global, [], quota, counts)
    }
}

impl<K: Clone + Hash + Eq, X: Fn(&Parts) -> Option<K>> RateLimitLayer<K, X, MemoryBuckets<K>> {
    /// How many keys have a bucket of their own, unless
    /// [`with_max_keys`](Self::with_max_keys) says otherwise.
    pub const DEFAULT_MAX_KEYS: usize = 10_000;

    /// A quota for each key. Requests for which `key_of` finds none pass.
    ///
    /// The key should be something that a client cannot choose freely: the identity that a
    /// credential proved, or the address of its connection.
    pub fn per_key(quota: Quota, key_of: X) -> Self {
        Self::per_key_with([], Some(quota), key_of)
    }

    /// Quotas of the keys that have `own`, and one for each of the `others`, who pass if they have
    /// none.
    pub fn per_key_with(
        own: impl IntoIterator<Item = (K, Quota)>,
        others: Option<Quota>,
        key_of: X,
    ) -> Self {
        let own: HashMap<K, Quota> = own.into_iter().collect();
        let quotas = own.values().copied().chain(others);
        let store = MemoryBuckets::new(quotas, Self::DEFAULT_MAX_KEYS);
        Self::with_store(store, own, others, key_of)
    }

    /// Bounds the number of keys that have a bucket of their own, and so the memory.
    pub fn with_max_keys(self, max_keys: NonZeroUsize) -> Self {
        self.store.set_max_keys(max_keys.get());
        self
    }

    /// How many keys have a bucket of their own now.
    pub fn keys(&self) -> usize {
        self.store.len()
    }

    /// Other quotas from now on, for all services of this layer and of its clones. Who keeps its quota
    /// has used up of it what it had.
    pub fn set_quotas(&self, own: impl IntoIterator<Item = (K, Quota)>, others: Option<Quota>) {
        let own: HashMap<K, Quota> = own.into_iter().collect();
        self.store.set_quotas(own.values().copied().chain(others));
        let rules = Rules::new(self.limit.scope, own, others);
        self.limit.rules.set(rules);
    }
}

impl<K: Hash + Eq, X: Fn(&Parts) -> Option<K>, T: RateStore<K>> RateLimitLayer<K, X, T> {
    /// The same with buckets that are kept in `store`.
    pub fn with_store(
        store: T,
        own: impl IntoIterator<Item = (K, Quota)>,
        others: Option<Quota>,
        key_of: X,
    ) -> Self {
        Self::with_rules(store, Scope::Key, own, others, key_of)
    }

    /// Tells clients of this policy by a name of its own, where there is more than one for each key.
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
            patience: self.limit.patience,
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
                patience: Patience::default(),
                rules: Live::new(Rules::new(scope, own, others)),
                scope,
            }),
            store: Arc::new(store),
        }
    }
}

impl<K: Clone, X: Clone, T> RateLimitLayer<K, X, T> {
    /// How long a store's answer is waited for, unless [`with_deadline`](Self::with_deadline)
    /// says otherwise.
    pub const DEFAULT_DEADLINE: Duration = Patience::DEFAULT_DEADLINE;

    /// How long a store's answer is waited for; one in memory answers at once.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        Arc::make_mut(&mut self.limit).patience.deadline = deadline;
        self
    }

    /// What becomes of requests while the store does not answer; without this, they pass.
    pub fn when_unavailable(mut self, when_unavailable: WhenUnavailable) -> Self {
        Arc::make_mut(&mut self.limit).patience.when_unavailable = when_unavailable;
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
        RateLimitService::new(inner, self.clone())
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
