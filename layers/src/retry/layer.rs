//! The layer.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use tower_layer::Layer;

use super::{Retry, RetryBudget};

/// Who is told of retries, with the reason: a [`Failure::kind`](crate::Failure::kind), or
/// `status_503`.
pub(super) type RetryObserver = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Makes [`Retry`] services that share a budget.
#[derive(Clone)]
pub struct RetryLayer {
    pub(super) attempts: NonZeroU32,
    pub(super) budget: RetryBudget,
    pub(super) observer: Option<RetryObserver>,
}

impl RetryLayer {
    /// Three attempts at most, within `budget`.
    pub fn new(budget: RetryBudget) -> Self {
        const DEFAULT_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);
        Self {
            attempts: DEFAULT_ATTEMPTS,
            budget,
            observer: None,
        }
    }

    /// How many times a request is sent in all; 1 for no retries.
    pub fn with_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Tells `observer` of each retry, before it is made.
    pub fn with_observer(mut self, observer: Arc<dyn Fn(&'static str) + Send + Sync>) -> Self {
        self.observer = Some(observer);
        self
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry {
            inner,
            policy: self.clone(),
        }
    }
}

impl fmt::Debug for RetryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("attempts", &self.attempts)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
