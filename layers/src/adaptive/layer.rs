//! The layer, which owns the limit.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::AdaptiveService;
use super::controller::Controller;
use super::permit::Shared;

/// Refuses what a server cannot begin to answer in time. See the [module](super).
///
/// All services of one layer and of its clones share one limit.
#[derive(Clone)]
pub struct AdaptiveLayer {
    pub(super) shared: Shared,
    pub(super) is_measured: fn(&Parts) -> bool,
    pub(super) is_on: bool,
}

impl AdaptiveLayer {
    /// Answers are to begin within `target`. A good one is twice to four times what a usual
    /// prompt takes on a server that has nothing else to do.
    ///
    /// The limit starts at 4 and stays between 1 and 256, unless said.
    pub fn new(target: Duration) -> Self {
        Self {
            shared: Shared::new(Controller::new(target)),
            is_measured: |_| true,
            is_on: true,
        }
    }

    /// Limits and measures nothing, as if the layer were not there.
    pub fn off() -> Self {
        Self {
            is_on: false,
            ..Self::new(Duration::MAX)
        }
    }

    /// Where the limit starts, within its bounds.
    pub fn with_initial(self, limit: NonZeroUsize) -> Self {
        self.shared.lock().set_limit(limit.get());
        self
    }

    /// What the limit never falls below and never rises above. Where the two contradict each
    /// other, `min` holds.
    pub fn with_bounds(self, min: NonZeroUsize, max: NonZeroUsize) -> Self {
        self.shared.lock().set_bounds(min, max);
        self
    }

    /// Which requests are measured; all of them unless said. All of them count.
    pub fn with_measured(mut self, is_measured: fn(&Parts) -> bool) -> Self {
        self.is_measured = is_measured;
        self
    }

    /// How many requests may be in flight at the moment.
    pub fn limit(&self) -> usize {
        self.shared.lock().limit()
    }

    /// How many requests are in flight now: from when they are sent to the end of their answer.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().in_flight()
    }
}

impl<S> Layer<S> for AdaptiveLayer {
    type Service = AdaptiveService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AdaptiveService::new(inner, self.clone())
    }
}

impl fmt::Debug for AdaptiveLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdaptiveLayer")
            .field("limit", &self.limit())
            .field("in_flight", &self.in_flight())
            .finish()
    }
}
