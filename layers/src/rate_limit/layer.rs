//! The layer, which owns the buckets.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

use http::HeaderValue;
use http::request::{Parts, Request};
use tower_layer::Layer;

use super::buckets::{Bucket, Buckets, Verdict};
use super::future::Standing;
use super::{Quota, RateLimitService, RateLimited, Scope};

/// Quotas and their buckets.
pub(super) enum Limit<K: Clone + Hash + Eq, X> {
    All(Rule, Bucket),
    Key {
        key_of: X,
        others: Option<(Rule, Buckets<K>)>,
        own: HashMap<K, (Rule, Bucket)>,
    },
}

/// A quota, and how it stands in a header.
#[derive(Debug)]
pub(super) struct Rule {
    scope: Scope,
    quota: Quota,
    policy: Option<HeaderValue>,
}

impl Rule {
    fn new(scope: Scope, quota: Quota) -> Self {
        Self {
            scope,
            quota,
            policy: quota.policy(scope.name()),
        }
    }

    fn judge(&self, verdict: Verdict) -> Result<Standing, RateLimited> {
        let (scope, quota) = (self.scope, self.quota);
        match verdict {
            Ok(remaining) => Ok(Standing {
                policy: self.policy.clone(),
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

impl<K: Clone + Hash + Eq, X: Fn(&Parts) -> Option<K>> Limit<K, X> {
    /// Takes from the request's bucket. `None` is for a request that has no key, or whose key has
    /// no quota.
    pub(super) fn take<B>(
        &self,
        request: Request<B>,
    ) -> (Request<B>, Option<Result<Standing, RateLimited>>) {
        match self {
            Self::All(rule, bucket) => (request, Some(rule.judge(bucket.take()))),
            Self::Key {
                key_of,
                others,
                own,
            } => {
                let (parts, body) = request.into_parts();
                let judged = key_of(&parts).and_then(|key| match (own.get(&key), others) {
                    (Some((rule, bucket)), _) => Some(rule.judge(bucket.take())),
                    (None, Some((rule, buckets))) => Some(rule.judge(buckets.take(&key))),
                    (None, None) => None,
                });
                (Request::from_parts(parts, body), judged)
            }
        }
    }
}

/// Refuses requests beyond a [`Quota`]. See the [module](super).
///
/// All services of one layer and of its clones share its buckets.
pub struct RateLimitLayer<K: Clone + Hash + Eq, X> {
    limit: Arc<Limit<K, X>>,
}

impl RateLimitLayer<(), fn(&Parts) -> Option<()>> {
    /// One quota for all requests together.
    pub fn global(quota: Quota) -> Self {
        let rule = Rule::new(Scope::Global, quota);
        Self::new(Limit::All(rule, Bucket::new(quota)))
    }
}

impl<K: Clone + Hash + Eq, X: Fn(&Parts) -> Option<K>> RateLimitLayer<K, X> {
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
        let own = own.into_iter().map(|(key, quota)| {
            let rule = Rule::new(Scope::Key, quota);
            (key, (rule, Bucket::new(quota)))
        });
        let others = others.map(|quota| {
            let buckets = Buckets::new(quota, Self::DEFAULT_MAX_KEYS);
            (Rule::new(Scope::Key, quota), buckets)
        });
        Self::new(Limit::Key {
            key_of,
            others,
            own: own.collect(),
        })
    }
}

impl<K: Clone + Hash + Eq, X> RateLimitLayer<K, X> {
    fn new(limit: Limit<K, X>) -> Self {
        Self {
            limit: Arc::new(limit),
        }
    }

    /// Bounds the number of keys that have a bucket of their own, and so the memory.
    ///
    /// A bucket is dropped some time after it is full again. While as many as may be are in
    /// use, all further keys share one.
    pub fn with_max_keys(self, max_keys: NonZeroUsize) -> Self {
        if let Some(buckets) = self.buckets() {
            buckets.set_max_keys(max_keys.get());
        }
        self
    }

    /// How many keys have a bucket of their own now.
    pub fn keys(&self) -> usize {
        self.buckets().map_or(0, Buckets::len)
    }

    fn buckets(&self) -> Option<&Buckets<K>> {
        match &*self.limit {
            Limit::Key { others, .. } => others.as_ref().map(|(_, buckets)| buckets),
            Limit::All(..) => None,
        }
    }
}

impl<K: Clone + Hash + Eq, X> Clone for RateLimitLayer<K, X> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit.clone(),
        }
    }
}

impl<S, K: Clone + Hash + Eq, X> Layer<S> for RateLimitLayer<K, X> {
    type Service = RateLimitService<S, K, X>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService::new(inner, self.limit.clone())
    }
}

impl<K: Clone + Hash + Eq, X> fmt::Debug for RateLimitLayer<K, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match &*self.limit {
            Limit::All(rule, _) => Some(rule),
            Limit::Key { others, .. } => others.as_ref().map(|(rule, _)| rule),
        };
        f.debug_struct("RateLimitLayer")
            .field("rule", &rule)
            .field("keys", &self.keys())
            .finish()
    }
}
