//! The layer, which owns the buckets.

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

/// A quota and its buckets.
pub(super) struct Limit<K: Clone + Hash + Eq, X> {
    quota: Quota,
    policy: Option<HeaderValue>,
    buckets: By<K, X>,
}

enum By<K: Clone + Hash + Eq, X> {
    All(Bucket),
    Key(Buckets<K>, X),
}

impl<K: Clone + Hash + Eq, X> Limit<K, X> {
    fn scope(&self) -> Scope {
        match self.buckets {
            By::All(_) => Scope::Global,
            By::Key(..) => Scope::Key,
        }
    }

    fn judge(&self, verdict: Verdict) -> Result<Standing, RateLimited> {
        let (scope, quota) = (self.scope(), self.quota);
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
    /// Takes from the request's bucket. `None` is for a request that has no key.
    pub(super) fn take<B>(
        &self,
        request: Request<B>,
    ) -> (Request<B>, Option<Result<Standing, RateLimited>>) {
        match &self.buckets {
            By::All(bucket) => (request, Some(self.judge(bucket.take()))),
            By::Key(buckets, key_of) => {
                let (parts, body) = request.into_parts();
                let verdict = key_of(&parts).map(|key| self.judge(buckets.take(&key)));
                (Request::from_parts(parts, body), verdict)
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
        Self::new(Scope::Global, quota, By::All(Bucket::new(quota)))
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
        let buckets = Buckets::new(quota, Self::DEFAULT_MAX_KEYS);
        Self::new(Scope::Key, quota, By::Key(buckets, key_of))
    }
}

impl<K: Clone + Hash + Eq, X> RateLimitLayer<K, X> {
    fn new(scope: Scope, quota: Quota, buckets: By<K, X>) -> Self {
        Self {
            limit: Arc::new(Limit {
                quota,
                policy: quota.policy(scope.name()),
                buckets,
            }),
        }
    }

    /// Bounds the number of keys that have a bucket of their own, and so the memory.
    ///
    /// A bucket is dropped some time after it is full again. While as many as may be are in
    /// use, all further keys share one.
    pub fn with_max_keys(self, max_keys: NonZeroUsize) -> Self {
        if let By::Key(buckets, _) = &self.limit.buckets {
            buckets.set_max_keys(max_keys.get());
        }
        self
    }

    /// How many keys have a bucket of their own now.
    pub fn keys(&self) -> usize {
        match &self.limit.buckets {
            By::All(_) => 0,
            By::Key(buckets, _) => buckets.len(),
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
        f.debug_struct("RateLimitLayer")
            .field("scope", &self.limit.scope())
            .field("quota", &self.limit.quota)
            .field("keys", &self.keys())
            .finish()
    }
}
