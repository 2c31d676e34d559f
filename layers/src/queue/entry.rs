//! A queue entry: the properties of a request that the queue uses.

use std::num::NonZeroU32;

use http::{Extensions, Request};
use tokio::time::Instant;

use super::machine::Charge;

/// The priority of a request. A higher priority goes first, whatever the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// First: a person is reading the output as it appears.
    High,
    /// The default.
    #[default]
    Normal,
    /// Last: batch jobs.
    Low,
}

impl Priority {
    pub(super) const COUNT: usize = 3;
    /// All priorities, the first first.
    pub(super) const ALL: [Self; Self::COUNT] = [Self::High, Self::Normal, Self::Low];

    /// Its name in logs and status pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// The arrival time of a request, as an extension of the request.
///
/// Add it outside of a retry layer. Then each attempt keeps the queue position of the first
/// attempt:
///
/// ```
/// use llamatower_layers::queue::Arrival;
/// use tower::ServiceBuilder;
///
/// let stack = ServiceBuilder::new().map_request(Arrival::stamp::<()>);
/// # let _ = stack;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival(pub Instant);

impl Arrival {
    /// Sets the arrival time to now, unless the request has one already.
    pub fn stamp<B>(mut request: Request<B>) -> Request<B> {
        let arrival = Self(Instant::now());
        request.extensions_mut().get_or_insert_with(|| arrival);
        request
    }

    /// The arrival time in these extensions, if it was set.
    pub fn of(extensions: &Extensions) -> Option<Instant> {
        extensions.get::<Self>().map(|arrival| arrival.0)
    }
}

/// A request for a slot.
#[derive(Clone, Debug)]
pub struct Entry<K, R> {
    pub(super) key: K,
    pub(super) request: R,
    pub(super) priority: Priority,
    pub(super) charge: Charge,
    pub(super) shares_key: bool,
    pub(super) arrival: Option<Instant>,
    pub(super) deadline: Option<Instant>,
    pub(super) keeps_place: bool,
    pub(super) entered: Option<Instant>,
}

impl<K, R> Entry<K, R> {
    /// An entry of `key`. `request` is the data that [`Dispatch`](super::Dispatch) needs to choose
    /// a slot.
    pub fn new(key: K, request: R) -> Self {
        Self {
            key,
            request,
            priority: Priority::default(),
            charge: Charge {
                tokens: 1,
                weight: NonZeroU32::MIN,
            },
            shares_key: false,
            arrival: None,
            deadline: None,
            keeps_place: false,
            entered: None,
        }
    }

    /// The priority; default [`Priority::Normal`].
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The expected cost, in tokens or in any other unit that all requests share. The default is 1,
    /// which gives keys equal numbers of requests.
    pub fn with_cost(mut self, tokens: u32) -> Self {
        self.charge.tokens = tokens;
        self
    }

    /// The weight of the key's share: a key with twice the weight gets twice the tokens. Default 1.
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.charge.weight = weight;
        self
    }

    /// Whether the key stands for several clients, for example for all behind one address; default
    /// false.
    ///
    /// The key's share and limits are the same. But too many waiting requests of the key are not
    /// this client's fault: it is refused with [`QueueFull`](super::QueueFull) (503) and not with
    /// [`KeyQueueFull`](super::KeyQueueFull) (429).
    pub fn with_shared_key(mut self, is_shared: bool) -> Self {
        self.shares_key = is_shared;
        self
    }

    /// The expected cost and the weight together. [`ClassQueues::finish`] gets them back.
    ///
    /// [`ClassQueues::finish`]: super::machine::ClassQueues::finish
    pub fn charge(&self) -> Charge {
        self.charge
    }

    /// The arrival time, if it is before now: a retried request keeps its position.
    pub fn with_arrival(mut self, arrival: Instant) -> Self {
        self.arrival = Some(arrival);
        self
    }

    /// The request had a slot before, which it could not use or at which its attempt has failed: the
    /// limits of the queue do not refuse it. Set the [arrival](Self::with_arrival) too, and the first
    /// [entry](Self::with_entered) if its waits are one.
    pub fn with_place_kept(mut self) -> Self {
        self.keeps_place = true;
        self
    }

    /// When the request entered the queue first, if it is back with its place: its wait, and the
    /// [limit](super::Queue::with_max_wait) of it, count from then. By default from now.
    pub fn with_entered(mut self, entered: Instant) -> Self {
        self.entered = Some(entered);
        self
    }

    /// The first entry of a request that enters now.
    pub(super) fn entered_at(&self, now: Instant) -> Instant {
        self.entered.map_or(now, |entered| entered.min(now))
    }

    /// The arrival of a request that enters now.
    pub(super) fn arrival_at(&self, now: Instant) -> Instant {
        self.arrival.map_or(now, |arrival| arrival.min(now))
    }

    /// The latest time at which the request gives up, even if the queue's own limit is later.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }
}
