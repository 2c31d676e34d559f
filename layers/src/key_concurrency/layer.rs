//! The layer. It owns the counts.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::counts::{Counts, KeyConcurrency};
use super::limits::{ConcurrencyLimits, SameForAll};
use super::service::KeyConcurrencyService;
use crate::order;

/// As for the wait in a queue.
const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(300);

/// Lets a number of requests of each key run at a time. See the [module](super).
///
/// All services of a layer and its clones share the counts.
pub struct KeyConcurrencyLayer<L: ConcurrencyLimits> {
    pub(super) limits: Arc<L>,
    pub(super) counts: Arc<Counts<L::Key>>,
    pub(super) max_waiting: usize,
    pub(super) max_wait: Option<Duration>,
}

impl<K: Clone + Eq + Hash, X: Fn(&Parts) -> Option<K>> KeyConcurrencyLayer<SameForAll<X>> {
    /// The same limit for each key. Requests for which `key_of` returns `None` are not limited.
    ///
    /// The key should be something that a client cannot choose freely: the identity of a verified
    /// credential, or the address of its connection.
    pub fn per_key(limit: NonZeroU32, key_of: X) -> Self {
        Self::new(SameForAll { limit, key_of })
    }
}

impl<L: ConcurrencyLimits> KeyConcurrencyLayer<L> {
    /// Any limits.
    pub fn new(limits: L) -> Self {
        Self {
            limits: Arc::new(limits),
            counts: Counts::new(),
            max_waiting: usize::MAX,
            max_wait: Some(DEFAULT_MAX_WAIT),
        }
    }

    /// The limits.
    pub fn limits(&self) -> &L {
        &self.limits
    }

    /// The maximum number of waiting requests of a key; further ones are refused at once. By default not
    /// limited.
    pub fn with_max_waiting(self, requests: Option<usize>) -> Self {
        let max_waiting = requests.unwrap_or(usize::MAX);
        Self {
            max_waiting,
            ..self
        }
    }

    /// The maximum wait of a request, after which it is refused. Default 5 minutes.
    pub fn with_max_wait(self, wait: Option<Duration>) -> Self {
        Self {
            max_wait: wait,
            ..self
        }
    }

    /// Applies other limits to the requests that run and wait. Without this, another limit counts from
    /// the next request of its key on. Requests that run go on; `None` is no limit.
    pub fn set_limits(&self, limit_of: impl Fn(&L::Key) -> Option<NonZeroU32>) {
        self.counts.set_limits(limit_of);
    }

    /// The keys with a limit whose requests run or wait, in no order.
    pub fn snapshot(&self) -> Vec<(L::Key, KeyConcurrency)> {
        self.counts.snapshot()
    }

    /// The number of waiting requests of all keys. A request with several limits waits for one at a
    /// time.
    pub fn waiting(&self) -> usize {
        self.counts.waiting()
    }
}

impl<L: ConcurrencyLimits> Clone for KeyConcurrencyLayer<L> {
    fn clone(&self) -> Self {
        Self {
            limits: self.limits.clone(),
            counts: self.counts.clone(),
            max_waiting: self.max_waiting,
            max_wait: self.max_wait,
        }
    }
}

impl<S, L: ConcurrencyLimits> Layer<S> for KeyConcurrencyLayer<L> {
    type Service = KeyConcurrencyService<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("KeyConcurrency");
        KeyConcurrencyService {
            inner,
            layer: self.clone(),
        }
    }
}

impl<L: ConcurrencyLimits> fmt::Debug for KeyConcurrencyLayer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyConcurrencyLayer")
            .field("waiting", &self.waiting())
            .field("max_wait", &self.max_wait)
            .finish_non_exhaustive()
    }
}
