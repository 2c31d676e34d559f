//! What a request says of itself when it enters the queue.

use std::num::NonZeroU32;

use http::{Extensions, Request};
use tokio::time::Instant;

/// How urgent a request is. What is more urgent goes first, whoever asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Before everything else: somebody watches the words appear.
    High,
    /// What does not say.
    #[default]
    Normal,
    /// When nothing else waits: batches.
    Low,
}

impl Priority {
    pub(super) const COUNT: usize = 3;
}

/// When a request arrived; an extension of the request.
///
/// Put in outside of what sends a request again, it lets each attempt keep the place in line
/// that its first one had:
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
    /// Notes that the request arrives now, unless that was noted before.
    pub fn stamp<B>(mut request: Request<B>) -> Request<B> {
        let arrival = Self(Instant::now());
        request.extensions_mut().get_or_insert_with(|| arrival);
        request
    }

    /// When the request with these extensions arrived, if that was noted.
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
    pub(super) arrival: Option<Instant>,
    pub(super) deadline: Option<Instant>,
}

impl<K, R> Entry<K, R> {
    /// Somebody with this key wants a slot; `request` is what the
    /// [`Dispatch`](super::Dispatch) needs to know of it.
    pub fn new(key: K, request: R) -> Self {
        Self {
            key,
            request,
            priority: Priority::default(),
            charge: Charge {
                tokens: 1,
                weight: NonZeroU32::MIN,
            },
            arrival: None,
            deadline: None,
        }
    }

    /// How urgent it is; [`Priority::Normal`] unless said.
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// What it is expected to cost, in tokens or in any other unit that all requests share; 1
    /// unless said, so that keys get equal numbers of requests.
    pub fn with_cost(mut self, tokens: u32) -> Self {
        self.charge.tokens = tokens;
        self
    }

    /// How large the key's share is: twice the weight is twice the tokens. 1 unless said.
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.charge.weight = weight;
        self
    }

    /// When it arrived, if that was before now: a request that is sent again keeps its place.
    pub fn with_arrival(mut self, arrival: Instant) -> Self {
        self.arrival = Some(arrival);
        self
    }

    /// When it gives up at the latest, however long it may wait by the queue's own rule.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// What a key's counter is charged for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    tokens: u32,
    weight: NonZeroU32,
}

impl Charge {
    /// The expected cost, in tokens for each unit of weight.
    pub(super) fn units(self) -> f64 {
        f64::from(self.tokens) / f64::from(self.weight.get())
    }

    /// What is to be added when the cost was `tokens` in truth.
    pub(super) fn correction(self, tokens: u32) -> f64 {
        (f64::from(tokens) - f64::from(self.tokens)) / f64::from(self.weight.get())
    }
}
