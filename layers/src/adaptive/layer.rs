//! The layer. It owns the limit.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::AdaptiveService;
use super::controller::Controller;
use super::permit::Shared;
use crate::order;
use crate::service::{Hook, Selector};

/// Refuses requests that a server could not begin to answer in time. See the [module](super).
///
/// All services of one layer and its clones share one limit.
#[derive(Clone)]
pub struct AdaptiveLayer {
    pub(super) shared: Shared,
    pub(super) is_measured: Option<Selector>,
    pub(super) is_on: bool,
}

impl AdaptiveLayer {
    /// Answers should begin within `target`. A good target is two to four times the time to first
    /// byte of a usual prompt on an idle server.
    ///
    /// By default the limit starts at 4 and stays between 1 and 256.
    pub fn new(target: Duration) -> Self {
        Self {
            shared: Shared::new(Controller::new(target)),
            is_measured: None,
            is_on: true,
        }
    }

    /// A layer that limits and measures nothing.
    pub fn off() -> Self {
        Self {
            is_on: false,
            ..Self::new(Duration::MAX)
        }
    }

    /// The initial limit, within the bounds.
    pub fn with_initial(self, limit: NonZeroUsize) -> Self {
        self.shared.lock().set_limit(limit.get());
        self
    }

    /// The lowest and the highest limit. If `max` is below `min`, `min` is used for both.
    pub fn with_bounds(self, min: NonZeroUsize, max: NonZeroUsize) -> Self {
        self.shared.lock().set_bounds(min, max);
        self
    }

    /// Selects the requests that are measured; by default all. All requests count as concurrent
    /// requests.
    pub fn with_measured(
        mut self,
        is_measured: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.is_measured = Some(Hook(Arc::new(is_measured)));
        self
    }

    /// The current limit of concurrent requests.
    pub fn limit(&self) -> usize {
        self.shared.lock().limit()
    }

    /// The number of concurrent requests, each from when it is sent to the end of its response.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().in_flight()
    }
}

impl<S> Layer<S> for AdaptiveLayer {
    type Service = AdaptiveService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("Adaptive");
        AdaptiveService {
            inner,
            layer: self.clone(),
        }
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
