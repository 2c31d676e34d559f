//! The layer and what it can be told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::buffering::Pace;
use super::{BodyLimitService, BodyRule, RouteLimits};
use crate::body::MemoryBudget;

/// Reads request bodies whole, within a limit and out of a memory budget.
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
    /// Reads bodies out of `budget`, by the default [`RouteLimits`].
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

    /// Limits bodies by the kind of their route.
    #[must_use]
    pub fn with_route_limits(self, limits: RouteLimits) -> Self {
        self.with_rule(move |head| limits.rule(head))
    }

    /// Decides by the head of each request what is done with its body.
    #[must_use]
    pub fn with_rule(mut self, rule: impl Fn(&Parts) -> BodyRule + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.config).rule = Arc::new(rule);
        self
    }

    /// How long a client may pause between two pieces of its body; 30 s by default,
    /// [`Duration::MAX`] for no limit. A body that streams is held to it too.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.config).pace.read_timeout = timeout;
        self
    }

    /// The mean rate that a buffered body must keep after the first read timeout, so that one
    /// byte at a time cannot hold memory for hours; 1024 bytes a second by default, 0 for no
    /// limit.
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
        BodyLimitService::new(inner, self.config.clone())
    }
}
