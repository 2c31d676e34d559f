//! The store of the buckets.

use std::future::{Future, Ready, ready};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Extensions;

use super::Quota;
use super::buckets::Buckets;
use crate::live::Live;
use crate::store::{Replicas, StoreUnavailable};

/// Stores the buckets of [`RateLimitLayer`](super::RateLimitLayer), one for each key.
///
/// A store can be external and shared by several processes: taking is one atomic step, and the
/// layer's deadline limits the wait for the response.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no store for the buckets of keys of type `{K}`",
    label = "not a store for this type of key",
    note = "use `MemoryBuckets<{K}>`, which `RateLimitLayer::per_key` makes if `{K}: Clone + Hash + Eq`, \
            or implement `RateStore<{K}>`"
)]
pub trait RateStore<K> {
    /// The future of a store's response. It is polled once with a no-op waker; if it is ready, the
    /// request need not be stored.
    type Taking: Future<Output = Result<TakeResult, StoreUnavailable>> + Unpin;

    /// Takes one request from the key's bucket, which is refilled by `quota`. `None` stands for all
    /// requests without a key: they share a bucket of their own. A key has the same quota each time.
    fn take(&self, key: Option<K>, quota: &Quota) -> Self::Taking;

    /// As [`take`](Self::take), for the request with these extensions. An outer layer can have asked an
    /// external store for several limits at once; the answer is in the extensions then, and the store takes
    /// it from there. By default this is `take`.
    fn take_for(&self, request: &Extensions, key: Option<K>, quota: &Quota) -> Self::Taking {
        let _ = request;
        self.take(key, quota)
    }

    /// Called when the layer's quotas are replaced: from now on, `take` is called with these. A store
    /// that needs to know its quotas in advance takes them from here; by default this does nothing.
    fn set_quotas(&self, quotas: &[Quota]) {
        let _ = quotas;
    }
}

/// The number of requests left after this one, or the wait until it may come.
pub type TakeResult = Result<u32, Duration>;

/// Stores buckets in this process's memory, as governor's GCRA.
///
/// A bucket is dropped some time after it is full. If the maximum number of keys have a bucket, all
/// further keys share one. Requests without a key share another one.
pub struct MemoryBuckets<K: Clone + Hash + Eq> {
    by_quota: Live<Vec<(Quota, Arc<Buckets<K>>)>>,
    max_keys: AtomicUsize,
    replicas: Replicas,
}

impl<K: Clone + Hash + Eq> MemoryBuckets<K> {
    /// Buckets for these quotas, for up to `max_keys` keys each. A quota that is not in this list
    /// does not limit.
    pub fn new(quotas: impl IntoIterator<Item = Quota>, max_keys: NonZeroUsize) -> Self {
        let buckets = Self {
            by_quota: Live::default(),
            max_keys: AtomicUsize::new(max_keys.get()),
            replicas: Replicas::default(),
        };
        buckets.replace_quotas(quotas);
        buckets
    }

    /// Divides the quotas by the number of replicas: each request takes as many units. A bucket that
    /// holds fewer units than there are replicas gives one request when it is full.
    pub fn with_replicas(self, replicas: Replicas) -> Self {
        Self { replicas, ..self }
    }

    /// Buckets of unchanged quotas are kept.
    fn replace_quotas(&self, quotas: impl IntoIterator<Item = Quota>) {
        let known = self.by_quota.get();
        let mut by_quota: Vec<(Quota, Arc<Buckets<K>>)> = Vec::new();
        for quota in quotas {
            if find(&by_quota, &quota).is_some() {
                continue;
            }
            let make = || Arc::new(Buckets::new(quota, self.max_keys.load(Ordering::Relaxed)));
            let buckets = find(&known, &quota).cloned().unwrap_or_else(make);
            by_quota.push((quota, buckets));
        }
        self.by_quota.set(by_quota);
    }

    pub(super) fn set_max_keys(&self, max_keys: usize) {
        self.max_keys.store(max_keys, Ordering::Relaxed);
        for (_, buckets) in &*self.by_quota.get() {
            buckets.set_max_keys(max_keys);
        }
    }

    /// As [`take`](RateStore::take), which returns this at once.
    pub(crate) fn take_result(&self, key: &Option<K>, quota: &Quota) -> TakeResult {
        let by_quota = self.by_quota.get();
        match find(&by_quota, quota) {
            Some(buckets) => buckets.take(key, self.replicas.get()),
            None => Ok(quota.burst().get()),
        }
    }

    pub(super) fn len(&self) -> usize {
        let by_quota = self.by_quota.get();
        by_quota.iter().map(|(_, buckets)| buckets.len()).sum()
    }
}

fn find<'a, K: Clone + Hash + Eq>(
    by_quota: &'a [(Quota, Arc<Buckets<K>>)],
    quota: &Quota,
) -> Option<&'a Arc<Buckets<K>>> {
    let mut known = by_quota.iter();
    let (_, buckets) = known.find(|(known, _)| known == quota)?;
    Some(buckets)
}

impl<K: Clone + Hash + Eq> RateStore<K> for MemoryBuckets<K> {
    type Taking = Ready<Result<TakeResult, StoreUnavailable>>;

    fn take(&self, key: Option<K>, quota: &Quota) -> Self::Taking {
        ready(Ok(self.take_result(&key, quota)))
    }

    fn set_quotas(&self, quotas: &[Quota]) {
        self.replace_quotas(quotas.iter().copied());
    }
}

impl<K: Clone + Hash + Eq> std::fmt::Debug for MemoryBuckets<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBuckets")
            .field("keys", &self.len())
            .finish_non_exhaustive()
    }
}
