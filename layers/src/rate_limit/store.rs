//! Where buckets are kept.

use std::future::{Future, Ready, ready};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Quota;
use super::buckets::Buckets;
use crate::live::Live;
use crate::store::StoreUnavailable;

/// Keeps the buckets of [`RateLimitLayer`](super::RateLimitLayer), one for each key.
///
/// It is made so that one of several processes can have it elsewhere: to take is one atomic step,
/// whose answer is waited for no longer than the layer's deadline.
pub trait RateStore<K> {
    /// The answer under way. It is asked for at once with a waker that does nothing: one that need
    /// not be waited for spares the request being kept aside.
    type Taking: Future<Output = Result<Verdict, StoreUnavailable>> + Unpin;

    /// Takes one request out of the key's bucket, which is filled by `quota`. A key has the same
    /// quota each time.
    fn take(&self, key: K, quota: &Quota) -> Self::Taking;
}

/// How many requests are left after this one, or how long to wait for it.
pub type Verdict = Result<u32, Duration>;

/// Keeps buckets in the memory of this process, as governor's GCRA.
///
/// A bucket is dropped some time after it is full again. While as many keys as may be have one,
/// all further keys share one.
pub struct MemoryBuckets<K: Clone + Hash + Eq> {
    by_quota: Live<Vec<(Quota, Arc<Buckets<K>>)>>,
    max_keys: AtomicUsize,
}

impl<K: Clone + Hash + Eq> MemoryBuckets<K> {
    /// Buckets for these quotas, of up to `max_keys` keys each. A quota that is not among them
    /// limits nothing.
    pub(super) fn new(quotas: impl IntoIterator<Item = Quota>, max_keys: usize) -> Self {
        let buckets = Self {
            by_quota: Live::default(),
            max_keys: AtomicUsize::new(max_keys),
        };
        buckets.set_quotas(quotas);
        buckets
    }

    /// Buckets for these quotas from now on. Those of a quota that there was before stay as they are.
    pub(super) fn set_quotas(&self, quotas: impl IntoIterator<Item = Quota>) {
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

    fn verdict(&self, key: &K, quota: &Quota) -> Verdict {
        let by_quota = self.by_quota.get();
        let buckets = find(&by_quota, quota);
        buckets.map_or(Ok(quota.burst().get()), |buckets| buckets.take(key))
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
    type Taking = Ready<Result<Verdict, StoreUnavailable>>;

    fn take(&self, key: K, quota: &Quota) -> Self::Taking {
        ready(Ok(self.verdict(&key, quota)))
    }
}

impl<K: Clone + Hash + Eq> std::fmt::Debug for MemoryBuckets<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBuckets")
            .field("keys", &self.len())
            .finish_non_exhaustive()
    }
}
