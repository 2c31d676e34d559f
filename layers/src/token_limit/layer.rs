//! The layer.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(feature = "redis")]
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::request::Parts;
use jiff::tz::TimeZone;
use tower_layer::Layer;

use super::{Budget, MemoryStore, TokenLimitService, TokenStore};
use crate::order;
use crate::service::{Hook, Selector};
use crate::store::{NoLimitKey, StorePolicy, WhenUnavailable, WithoutKey};

type Estimate = dyn Fn(&Parts) -> u64 + Send + Sync;
type BudgetsOf<K> = dyn Fn(&K) -> Option<Arc<[Budget]>> + Send + Sync;

/// Refuses requests of keys that have used up their token budget. See the [module](super).
///
/// All services of one layer and its clones share its store.
pub struct TokenLimitLayer<K, X, T = MemoryStore<K>> {
    pub(super) limit: Arc<Limit<K, X, T>>,
}

/// The part that is the same for all requests.
pub(super) struct Limit<K, X, T> {
    pub(super) store: Arc<T>,
    pub(super) key_of: X,
    pub(super) options: Options,
    budgets: Arc<[Budget]>,
    budgets_of: Option<Arc<BudgetsOf<K>>>,
}

/// What does not depend on the types of keys and stores.
#[derive(Clone)]
pub(super) struct Options {
    counts: Option<Selector>,
    without_key: WithoutKey,
    pub(super) policy: StorePolicy,
    pub(super) estimate: Option<Arc<Estimate>>,
    pub(super) output: Option<Arc<Estimate>>,
    pub(super) is_on: Arc<AtomicBool>,
    pub(super) is_shared: bool,
}

impl<K, X, T> Limit<K, X, T> {
    pub(super) fn budgets(&self, key: Option<&K>) -> Arc<[Budget]> {
        let budgets_of = self.budgets_of.as_ref().zip(key);
        let own = budgets_of.and_then(|(budgets_of, key)| budgets_of(key));
        own.unwrap_or_else(|| self.budgets.clone())
    }

    /// The key of a request as the store gets it; `None` for a request that is not counted.
    pub(super) fn key(&self, request: &Parts) -> Result<Option<Option<K>>, NoLimitKey>
    where
        X: Fn(&Parts) -> Option<K>,
    {
        match &self.options.counts {
            Some(counts) if !counts(request) => Ok(None),
            _ => self.options.without_key.settle((self.key_of)(request)),
        }
    }
}

impl<K, X> TokenLimitLayer<K, X>
where
    K: Hash + Eq + Clone,
    X: Fn(&Parts) -> Option<K>,
{
    /// Gives each key these budgets, counted in memory, with days that start at midnight UTC.
    /// Requests for which `key_of` returns `None` together have one such account
    /// ([`without_key`](Self::without_key)).
    pub fn new(budgets: impl IntoIterator<Item = Budget>, key_of: X) -> Self {
        Self::with_store(MemoryStore::new(TimeZone::UTC), budgets, key_of)
    }
}

impl<K, X, T> TokenLimitLayer<K, X, T>
where
    X: Fn(&Parts) -> Option<K>,
    T: TokenStore<K>,
{
    /// The default deadline for a store's response; see [`with_deadline`](Self::with_deadline).
    pub const DEFAULT_DEADLINE: Duration = StorePolicy::DEFAULT_DEADLINE;

    #[cfg(feature = "redis")]
    pub(crate) fn store(&self) -> &T {
        &self.limit.store
    }

    /// What a request reserves in the store: the key and its budgets; `None` if it is not counted.
    ///
    /// # Errors
    /// The layer refuses the request because it has no key.
    #[cfg(feature = "redis")]
    #[expect(clippy::type_complexity, reason = "the arguments of the store")]
    pub(crate) fn reserves(
        &self,
        request: &Parts,
    ) -> Result<Option<(Option<K>, Arc<[Budget]>)>, NoLimitKey> {
        if !self.limit.options.is_on.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let key = self.limit.key(request)?;
        Ok(key.map(|key| {
            let budgets = self.limit.budgets(key.as_ref());
            (key, budgets)
        }))
    }

    /// Like [`new`](TokenLimitLayer::new), with another store.
    pub fn with_store(store: T, budgets: impl IntoIterator<Item = Budget>, key_of: X) -> Self {
        Self {
            limit: Arc::new(Limit {
                store: Arc::new(store),
                key_of,
                options: Options {
                    counts: None,
                    without_key: WithoutKey::default(),
                    policy: StorePolicy::default(),
                    estimate: None,
                    output: None,
                    is_on: Arc::new(AtomicBool::new(true)),
                    is_shared: false,
                },
                budgets: budgets.into_iter().collect(),
                budgets_of: None,
            }),
        }
    }
}

/// Each of these returns a changed layer. Services that were made before keep their options.
impl<K, X: Clone, T> TokenLimitLayer<K, X, T> {
    /// Gives some keys their own budgets, in place of the default budgets.
    pub fn with_budgets_of(
        self,
        budgets_of: impl Fn(&K) -> Option<Arc<[Budget]>> + Send + Sync + 'static,
    ) -> Self {
        self.change(|limit| limit.budgets_of = Some(Arc::new(budgets_of)))
    }

    /// Limits only the requests that `counts` selects; others pass. By default, all are limited.
    pub fn with_requests(self, counts: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.change(|limit| limit.options.counts = Some(Hook(Arc::new(counts))))
    }

    /// What happens to requests without a key; by default they share one account with the default
    /// budgets.
    pub fn without_key(self, without_key: WithoutKey) -> Self {
        self.change(|limit| limit.options.without_key = without_key)
    }

    /// The budgets are those of all clients together, because all requests have the same key. Errors
    /// then say so; by default they name the client.
    pub fn with_shared_budgets(self) -> Self {
        self.change(|limit| limit.options.is_shared = true)
    }

    /// The expected tokens of a request. The default is a quarter of its body's bytes. Images use fewer
    /// tokens than their bytes suggest: behind an `LlmRequestLayer` they count as at most 4096 tokens,
    /// and without one, the whole body does.
    pub fn with_estimate(self, estimate: impl Fn(&Parts) -> u64 + Send + Sync + 'static) -> Self {
        self.change(|limit| limit.options.estimate = Some(Arc::new(estimate)))
    }

    /// The expected tokens of a request's response, for example its `max_tokens`. They are reserved in addition
    /// to [`with_estimate`](Self::with_estimate), and are free again at the end. By default none are, so that
    /// requests that run at the same time can together use more than a budget.
    pub fn with_expected_output(
        self,
        output: impl Fn(&Parts) -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.change(|limit| limit.options.output = Some(Arc::new(output)))
    }

    /// The deadline for a store's response. A store in memory answers at once.
    pub fn with_deadline(self, deadline: Duration) -> Self {
        self.change(|limit| limit.options.policy.deadline = deadline)
    }

    /// What happens to requests while the store does not answer; by default they pass.
    pub fn when_unavailable(self, when_unavailable: WhenUnavailable) -> Self {
        self.change(|limit| limit.options.policy.when_unavailable = when_unavailable)
    }

    /// Turns the limit on or off; by default on. If it is off, neither the key function nor the
    /// store is called.
    pub fn with_enabled(self, is_on: bool) -> Self {
        self.with_switch(Arc::new(AtomicBool::new(is_on)))
    }

    /// The same as a switch that can be turned at any time.
    pub fn with_switch(self, is_on: Arc<AtomicBool>) -> Self {
        self.change(|limit| limit.options.is_on = is_on)
    }

    fn change(self, change: impl FnOnce(&mut Limit<K, X, T>)) -> Self {
        let mut limit = Limit {
            store: self.limit.store.clone(),
            key_of: self.limit.key_of.clone(),
            options: self.limit.options.clone(),
            budgets: self.limit.budgets.clone(),
            budgets_of: self.limit.budgets_of.clone(),
        };
        change(&mut limit);
        Self {
            limit: Arc::new(limit),
        }
    }
}

impl<K, X, T> Clone for TokenLimitLayer<K, X, T> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit.clone(),
        }
    }
}

impl<S, K, X, T> Layer<S> for TokenLimitLayer<K, X, T> {
    type Service = TokenLimitService<S, K, X, T>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("TokenLimit");
        TokenLimitService {
            inner,
            limit: self.limit.clone(),
        }
    }
}

impl<K, X, T: fmt::Debug> fmt::Debug for TokenLimitLayer<K, X, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenLimitLayer")
            .field("budgets", &self.limit.budgets)
            .field("store", &self.limit.store)
            .finish_non_exhaustive()
    }
}
