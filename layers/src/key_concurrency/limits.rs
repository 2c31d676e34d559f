//! Which limits apply to a request.

use std::hash::Hash;
use std::num::NonZeroU32;

use http::request::Parts;
use smallvec::SmallVec;

/// The keys of a request with their limits. A request has a turn of each of them.
pub type KeyLimits<K> = SmallVec<[(K, NonZeroU32); 2]>;

/// Tells which limits apply to a request.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell the concurrency limits of requests",
    label = "no `ConcurrencyLimits`",
    note = "use `KeyConcurrencyLayer::per_key` for one limit for each key"
)]
pub trait ConcurrencyLimits {
    /// Whose requests are counted together.
    type Key: Clone + Eq + Hash;

    /// Whether there is a limit for any request. If not, requests pass without further work.
    fn are_any(&self) -> bool {
        true
    }

    /// The keys of a request with their limits; without one the request is not limited. The order
    /// must be the same for all requests: a turn is held while the next one is waited for.
    fn of(&self, request: &Parts) -> KeyLimits<Self::Key>;
}

/// The same limit for each key that a function finds in a request.
#[derive(Clone, Copy, Debug)]
pub struct SameForAll<X> {
    pub(super) limit: NonZeroU32,
    pub(super) key_of: X,
}

impl<K: Clone + Eq + Hash, X: Fn(&Parts) -> Option<K>> ConcurrencyLimits for SameForAll<X> {
    type Key = K;

    fn of(&self, request: &Parts) -> KeyLimits<K> {
        let key = (self.key_of)(request);
        key.map(|key| (key, self.limit)).into_iter().collect()
    }
}
