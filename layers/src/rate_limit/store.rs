//! Where buckets are kept.

use std::future::{Future, Ready, ready};
use std::hash::Hash;
use std::time::Duration;

use super::Quota;
use super::buckets::Buckets;
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
    by_quota: Vec<(Quota, Buckets<K>)>,
}

impl<K: Clone + Hash + Eq> MemoryBuckets<K> {
    /// Buckets for these quotas, of up to `max_keys` keys each. A quota that is not among them
    /// limits nothing.
    pub(super) fn new(quotas: impl IntoIterator<Item = Quota>, max_keys: usize) -> Self {
        let mut by_quota: Vec<(Quota, Buckets<K>)> = Vec::new();
        for quota in quotas {
            if by_quota.iter().all(|(known, _)| *known != quota) {
                by_quota.push((quota, Buckets::new(quota, max_keys)));
            }
        }
        Self { by_quota }
    }

    pub(super) fn set_max_keys(&self, max_keys: usize) {
        for (_, buckets) in &self.by_quota {
            buckets.set_max_keys(max_keys);
        }
    }

    fn verdict(&self, key: &K, quota: &Quota) -> Verdict {
        let mut known = self.by_quota.iter();
        let buckets = known.find(|(known, _)| known == quota);
        buckets.map_or(Ok(quota.burst().get()), |(_, buckets)| buckets.take(key))
    }

    pub(super) fn len(&self) -> usize {
        self.by_quota.iter().map(|(_, buckets)| buckets.len()).sum()
    }
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
