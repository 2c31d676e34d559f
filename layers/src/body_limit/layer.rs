//! The layer and its options.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::buffering::Pace;
use super::{BodyLimitService, BodyRule, RouteLimits};
use crate::body::MemoryBudget;
use crate::order;

/// Buffers request bodies, within a limit and a memory budget.
///
/// See the [module's documentation](super).
#[derive(Clone)]
pub struct BodyLimitLayer {
    config: Arc<Config>,
}

#[derive(Clone)]
pub(super) struct Config {
    pub(super) budget: MemoryBudget,
    pub(super) rule: Rule,
    pub(super) pace: Pace,
}

pub(super) type Rule = Arc<dyn Fn(&Parts) -> BodyRule + Send + Sync>;

impl BodyLimitLayer {
    /// Buffers bodies within `budget`, with the default [`RouteLimits`].
    pub fn new(budget: MemoryBudget) -> Self {
        let limits = RouteLimits::default();
        Self {
            config: Arc::new(Config {
                budget,
                rule: Arc::new(move |head| limits.rule(head)),
                pace: Pace {
                    read_timeout: Duration::from_secs(30),
                    bytes_per_second: 1024,
                },
            }),
        }
    }

    /// Limits bodies by the type of their route.
    #[must_use]
    pub fn with_route_limits(self, limits: RouteLimits) -> Self {
        self.with_rule(move |head| limits.rule(head))
    }

    /// Sets the function that chooses the rule for a request's body from its head.
    #[must_use]
    pub fn with_rule(mut self, rule: impl Fn(&Parts) -> BodyRule + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.config).rule = Arc::new(rule);
        self
    }

    /// The longest pause between two pieces of a body; default 30 s, [`Duration::MAX`] for no
    /// limit. It also applies to streaming bodies.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.config).pace.read_timeout = timeout;
        self
    }

    /// The minimum mean rate of a buffered body after the first read timeout, in bytes per second,
    /// so that a slow client cannot hold memory for hours. Default 1024, 0 for no limit.
    #[must_use]
    pub fn with_min_rate(mut self, bytes_per_second: u64) -> Self {
        Arc::make_mut(&mut self.config).pace.bytes_per_second = bytes_per_second;
        self
    }
}

impl fmt::Debug for BodyLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimitLayer")
            .field("budget", &self.config.budget)
            .field("pace", &self.config.pace)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("BodyLimit");
        BodyLimitService {
            inner,
            config: self.config.clone(),
        }
    }
}
