//! The layer.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::{Extensions, Method, StatusCode};
use tower_layer::Layer;

use super::event::RetryObserver;
use super::{Backoff, Retry, RetryBudget, RetryEvent};
use crate::RouteMatch;

/// Which requests may be sent twice.
pub(super) type IsReplayable = fn(&Method, &Extensions) -> bool;

/// Makes [`Retry`] services that share a budget; see the [module](super).
#[derive(Clone)]
pub struct RetryLayer {
    policy: Arc<Policy>,
}

#[derive(Clone)]
pub(super) struct Policy {
    pub(super) attempts: NonZeroU32,
    pub(super) budget: RetryBudget,
    pub(super) statuses: Vec<StatusCode>,
    pub(super) statuses_only_elsewhere: bool,
    pub(super) is_replayable: IsReplayable,
    pub(super) backoff: Backoff,
    pub(super) observer: Option<RetryObserver>,
}

impl RetryLayer {
    /// Three attempts at most, within `budget`, after errors that say that they may be retried
    /// and answers with the status 503.
    pub fn new(budget: RetryBudget) -> Self {
        const DEFAULT_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);
        Self {
            policy: Arc::new(Policy {
                attempts: DEFAULT_ATTEMPTS,
                budget,
                statuses: [StatusCode::SERVICE_UNAVAILABLE].into(),
                statuses_only_elsewhere: false,
                is_replayable: by_route_or_method,
                backoff: Backoff::default(),
                observer: None,
            }),
        }
    }

    fn policy(&mut self) -> &mut Policy {
        Arc::make_mut(&mut self.policy)
    }

    /// How many times a request is sent in all; 1 for no retries.
    pub fn with_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.policy().attempts = attempts;
        self
    }

    /// The statuses of answers that are asked for again.
    ///
    /// Ollama answers 503 before it has begun to work on a request. A 502 or 504 of a proxy may
    /// come after that.
    pub fn with_statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.policy().statuses = statuses.into_iter().collect();
        self
    }

    /// Asks again for an answer with such a status only where another backend can be asked
    /// ([`Attempts::can_go_elsewhere`](super::Attempts::can_go_elsewhere)); otherwise the client gets
    /// the answer at once, with its `Retry-After`.
    ///
    /// Set it where clients retry by themselves: each of their retries would become several at a
    /// backend that is full. Errors may still be retried at the same backend.
    pub fn with_statuses_only_elsewhere(mut self) -> Self {
        self.policy().statuses_only_elsewhere = true;
        self
    }

    /// Which requests may be sent twice without doing harm. By default that is for the operation
    /// of their [`RouteMatch`] to say ([`Operation::is_replayable`](crate::Operation)), and
    /// where there is none for the method: safe ones may (RFC 9110 9.2.1).
    pub fn with_replayable(mut self, is_replayable: fn(&Method, &Extensions) -> bool) -> Self {
        self.policy().is_replayable = is_replayable;
        self
    }

    /// How long is waited before a retry.
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.policy().backoff = backoff;
        self
    }

    /// Tells `observer` of each failed attempt that a retry might mend, before the retry.
    pub fn with_observer(mut self, observer: impl Fn(&RetryEvent) + Send + Sync + 'static) -> Self {
        self.policy().observer = Some(Arc::new(observer));
        self
    }
}

fn by_route_or_method(method: &Method, extensions: &Extensions) -> bool {
    match RouteMatch::of(extensions) {
        Some(route) => route
            .operation()
            .is_some_and(|operation| operation.is_replayable()),
        None => method.is_safe(),
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry {
            inner,
            policy: self.policy.clone(),
        }
    }
}

impl fmt::Debug for RetryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.policy, f)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("attempts", &self.attempts)
            .field("budget", &self.budget)
            .field("statuses", &self.statuses)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}
