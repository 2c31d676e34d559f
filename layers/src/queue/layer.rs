//! A queue layer in front of one service with a fixed number of slots.

use std::fmt;
use std::hash::Hash;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::{Arrival, Entry, Meter, Priority, Queue, QueueLimitNames, QueueService, SlotPool};
use crate::order;

/// Reads a property of a request.
type Extractor<T> = Arc<dyn Fn(&Parts) -> T + Send + Sync>;

/// Queues requests until one of a fixed number of slots is free. See the [module](super).
///
/// All services of one layer and its clones share one queue. `C` is the class, `K` is the key; by
/// default all requests have the same class and key.
pub struct QueueLayer<C = (), K = ()>
where
    C: Clone + Eq + Hash,
    K: Clone + Eq + Hash,
{
    queue: Queue<SlotPool<C, K>>,
    extractors: Extractors<C, K>,
}

/// The functions that read a request's properties.
pub(super) struct Extractors<C, K> {
    class: Extractor<C>,
    key: Extractor<K>,
    priority: Option<Extractor<Priority>>,
    weight: Option<Extractor<NonZeroU32>>,
    cost: Option<Extractor<u32>>,
    shares_key: Option<Extractor<bool>>,
}

impl<C, K> Extractors<C, K> {
    pub(super) fn class(&self, parts: &Parts) -> C {
        (self.class)(parts)
    }

    pub(super) fn entry(&self, parts: &Parts) -> Entry<K, ()> {
        let mut entry = Entry::new((self.key)(parts), ());
        if let Some(priority) = &self.priority {
            entry = entry.with_priority(priority(parts));
        }
        if let Some(weight) = &self.weight {
            entry = entry.with_weight(weight(parts));
        }
        if let Some(cost) = &self.cost {
            entry = entry.with_cost(cost(parts));
        }
        if let Some(shares_key) = &self.shares_key {
            entry = entry.with_shared_key(shares_key(parts));
        }
        if let Some(arrival) = Arrival::of(&parts.extensions) {
            entry = entry.with_arrival(arrival);
        }
        entry
    }

    /// The meter for the request's real cost, if the layer was given costs.
    pub(super) fn meter(&self) -> Option<Meter> {
        self.cost.as_ref().map(|_| Meter::default())
    }
}

impl QueueLayer {
    /// Lets `slots` requests run at a time, each to the end of its response.
    pub fn new(slots: NonZeroUsize) -> Self {
        Self {
            queue: Queue::new(SlotPool::new(slots)),
            extractors: Extractors {
                class: Arc::new(|_| ()),
                key: Arc::new(|_| ()),
                priority: None,
                weight: None,
                cost: None,
                // The one key of all requests.
                shares_key: Some(Arc::new(|_| true)),
            },
        }
    }
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash> QueueLayer<C, K> {
    /// The class of a request, for example its model. Each class has its own queue.
    ///
    /// Call this before the layer is used: services made earlier keep their queue.
    pub fn with_class<D, F>(self, class: F) -> QueueLayer<D, K>
    where
        D: Clone + Eq + Hash,
        F: Fn(&Parts) -> D + Send + Sync + 'static,
    {
        QueueLayer {
            queue: self.queue.with_dispatch(SlotPool::with_same_limits),
            extractors: Extractors {
                class: Arc::new(class),
                key: self.extractors.key,
                priority: self.extractors.priority,
                weight: self.extractors.weight,
                cost: self.extractors.cost,
                shares_key: self.extractors.shares_key,
            },
        }
    }

    /// The key of a request. Keys with waiting requests get equal shares.
    ///
    /// The key should be a value that a client cannot choose freely. It stands for one client unless
    /// [`with_shared_key`](Self::with_shared_key) says otherwise. Call this before the layer is
    /// used: services made earlier keep their queue.
    pub fn with_key<L, F>(self, key: F) -> QueueLayer<C, L>
    where
        L: Clone + Eq + Hash,
        F: Fn(&Parts) -> L + Send + Sync + 'static,
    {
        QueueLayer {
            queue: self.queue.with_dispatch(SlotPool::with_same_limits),
            extractors: Extractors {
                class: self.extractors.class,
                key: Arc::new(key),
                priority: self.extractors.priority,
                weight: self.extractors.weight,
                cost: self.extractors.cost,
                shares_key: None,
            },
        }
    }

    /// Whether the key of a request stands for several clients, for example for all behind one
    /// address. See [`Entry::with_shared_key`]. Call it after [`with_key`](Self::with_key).
    pub fn with_shared_key(
        mut self,
        is_shared: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.extractors.shares_key = Some(Arc::new(is_shared));
        self
    }

    /// The priority of a request; by default all have the same priority.
    pub fn with_priority(
        mut self,
        priority: impl Fn(&Parts) -> Priority + Send + Sync + 'static,
    ) -> Self {
        self.extractors.priority = Some(Arc::new(priority));
        self
    }

    /// The weight of the share of a request's key; default 1.
    pub fn with_weight(
        mut self,
        weight: impl Fn(&Parts) -> NonZeroU32 + Send + Sync + 'static,
    ) -> Self {
        self.extractors.weight = Some(Arc::new(weight));
        self
    }

    /// The expected cost of a request, in tokens. By default all requests have the same cost.
    ///
    /// With this, the request and the response carry a [`Meter`] in their extensions. A layer that
    /// learns the real cost before the response ends sets it there.
    pub fn with_cost(mut self, tokens: impl Fn(&Parts) -> u32 + Send + Sync + 'static) -> Self {
        self.extractors.cost = Some(Arc::new(tokens));
        self
    }

    /// The number of slots that one class may hold; default all.
    pub fn with_max_per_class(self, slots: NonZeroUsize) -> Self {
        self.queue.dispatch().set_max_per_class(slots);
        self
    }

    /// See [`Queue::with_max_waiting`].
    pub fn with_max_waiting(mut self, requests: usize) -> Self {
        self.queue = self.queue.with_max_waiting(requests);
        self
    }

    /// See [`Queue::with_max_waiting_per_key`].
    pub fn with_max_waiting_per_key(mut self, requests: Option<usize>) -> Self {
        self.queue = self.queue.with_max_waiting_per_key(requests);
        self
    }

    /// See [`Queue::with_max_predicted_wait`].
    pub fn with_max_predicted_wait(mut self, wait: Option<Duration>) -> Self {
        self.queue = self.queue.with_max_predicted_wait(wait);
        self
    }

    /// See [`Queue::with_max_wait`].
    pub fn with_max_wait(mut self, wait: Option<Duration>) -> Self {
        self.queue = self.queue.with_max_wait(wait);
        self
    }

    /// See [`Queue::with_ageing`].
    pub fn with_ageing(mut self, step: Option<Duration>) -> Self {
        self.queue = self.queue.with_ageing(step);
        self
    }

    /// See [`Queue::with_assumed_service_time`].
    pub fn with_assumed_service_time(mut self, time: Option<Duration>) -> Self {
        self.queue = self.queue.with_assumed_service_time(time);
        self
    }

    /// See [`Queue::with_limit_names`].
    pub fn with_limit_names(mut self, names: &'static QueueLimitNames) -> Self {
        self.queue = self.queue.with_limit_names(names);
        self
    }

    /// The queue, for inspection.
    pub fn queue(&self) -> &Queue<SlotPool<C, K>> {
        &self.queue
    }
}

impl<S, C: Clone + Eq + Hash, K: Clone + Eq + Hash> Layer<S> for QueueLayer<C, K> {
    type Service = QueueService<S, C, K>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("Queue");
        QueueService {
            inner,
            queue: self.queue.clone(),
            extractors: Arc::new(self.extractors.clone()),
        }
    }
}

impl<C, K> Clone for Extractors<C, K> {
    fn clone(&self) -> Self {
        Self {
            class: self.class.clone(),
            key: self.key.clone(),
            priority: self.priority.clone(),
            weight: self.weight.clone(),
            cost: self.cost.clone(),
            shares_key: self.shares_key.clone(),
        }
    }
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash> Clone for QueueLayer<C, K> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            extractors: self.extractors.clone(),
        }
    }
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash> fmt::Debug for QueueLayer<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueLayer")
            .field("slots", self.queue.dispatch())
            .field("waiting", &self.queue.waiting())
            .finish_non_exhaustive()
    }
}
