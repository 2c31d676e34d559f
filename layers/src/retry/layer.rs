//! The layer.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Once};

use http::{Extensions, Method, StatusCode};
use tower_layer::Layer;

use super::event::RetryObserver;
use super::{Backoff, RetryBudget, RetryEvent, RetryService};
use crate::RouteMatch;
use crate::order;
use crate::service::Hook;

/// Whether a request may be sent twice.
type IsReplayable = dyn Fn(&Method, &Extensions) -> bool + Send + Sync;

/// Makes [`RetryService`] services that share a budget; see the [module](super).
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
    /// `None` is the rule by route or method.
    pub(super) is_replayable: Option<Hook<IsReplayable>>,
    pub(super) backoff: Backoff,
    pub(super) observer: Option<RetryObserver>,
    /// The warning about requests without a route.
    pub(super) warned: Arc<Warned>,
}

/// The warnings that a layer has logged; each is logged once.
#[derive(Debug)]
pub(super) struct Warned {
    pub(super) no_route: Once,
    pub(super) not_in_table: Once,
    pub(super) unclassified: Once,
}

impl Default for Warned {
    fn default() -> Self {
        Self {
            no_route: Once::new(),
            not_in_table: Once::new(),
            unclassified: Once::new(),
        }
    }
}

/// Whether a request may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replayable {
    Yes,
    No,
    /// By its method it may not, and it has no route that knows better.
    NoByMethod,
    /// Its path is not in the table.
    NotInTable,
}

impl Policy {
    pub(super) fn is_replayable(&self, method: &Method, extensions: &Extensions) -> Replayable {
        if let Some(is_replayable) = &self.is_replayable {
            return is_replayable(method, extensions).into();
        }
        match RouteMatch::of(extensions) {
            Some(RouteMatch::Unknown { .. }) if method.is_safe() => Replayable::Yes,
            Some(RouteMatch::Unknown { .. }) => Replayable::NotInTable,
            Some(route) => route
                .operation()
                .is_some_and(|operation| operation.is_replayable())
                .into(),
            None if method.is_safe() => Replayable::Yes,
            None => Replayable::NoByMethod,
        }
    }
}

impl From<bool> for Replayable {
    fn from(is_replayable: bool) -> Self {
        match is_replayable {
            true => Self::Yes,
            false => Self::No,
        }
    }
}

impl RetryLayer {
    /// At most three attempts, within `budget`, after retryable errors (a [`Failure`](crate::Failure),
    /// or one that [`classify`](crate::classify) knows) and responses with the status 503.
    pub fn new(budget: RetryBudget) -> Self {
        const DEFAULT_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);
        Self {
            policy: Arc::new(Policy {
                attempts: DEFAULT_ATTEMPTS,
                budget,
                statuses: [StatusCode::SERVICE_UNAVAILABLE].into(),
                statuses_only_elsewhere: false,
                is_replayable: None,
                backoff: Backoff::default(),
                observer: None,
                warned: Arc::default(),
            }),
        }
    }

    fn policy(&mut self) -> &mut Policy {
        Arc::make_mut(&mut self.policy)
    }

    /// The number of attempts, including the first; 1 for no retries.
    pub fn with_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.policy().attempts = attempts;
        self
    }

    /// The statuses of responses that are retried.
    ///
    /// Ollama responds with 503 before it starts to work on a request. A proxy's 502 or 504 may
    /// come later. A response with an [`ErrorCause`](crate::ErrorCause) is not retried.
    pub fn with_statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.policy().statuses = statuses.into_iter().collect();
        self
    }

    /// Retries such responses only if another backend can be tried
    /// ([`Attempts::can_go_elsewhere`](super::Attempts::can_go_elsewhere)). Otherwise the client
    /// gets the response at once, with its `Retry-After`.
    ///
    /// Use it if clients retry themselves, because each of their retries would become several at an
    /// overloaded backend. Errors may still be retried at the same backend.
    pub fn with_statuses_only_elsewhere(mut self) -> Self {
        self.policy().statuses_only_elsewhere = true;
        self
    }

    /// Whether a request may safely be sent twice. By default the operation of the [`RouteMatch`]
    /// decides ([`Operation::is_replayable`](crate::Operation)); without a route, the method: safe
    /// methods may be repeated (RFC 9110 9.2.1). [`RetryOptions`](super::RetryOptions) decides for
    /// one request.
    pub fn with_replayable(
        mut self,
        is_replayable: impl Fn(&Method, &Extensions) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.policy().is_replayable = Some(Hook(Arc::new(is_replayable)));
        self
    }

    /// The wait before a retry.
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.policy().backoff = backoff;
        self
    }

    /// Calls `observer` for each failed attempt, before it is repeated or returned. Errors that are
    /// final by their meaning are left out; see [`RetryEvent`].
    pub fn with_observer(mut self, observer: impl Fn(&RetryEvent) + Send + Sync + 'static) -> Self {
        self.policy().observer = Some(Arc::new(observer));
        self
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = RetryService<S>;

    fn layer(&self, inner: S) -> RetryService<S> {
        order::check::<S>("Retry");
        RetryService {
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
