//! The layer.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::request::Parts;
use http::{Extensions, Method};
use tower_layer::Layer;

use super::failures::Failures;
use super::{ApiKeyService, FailedKey, KeySet};
use crate::live::Live;
use crate::order;
use crate::service::Hook;
use crate::{Operation, RouteMatch};

/// The key that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// None; the request's keys are ignored.
    Open,
    /// None; but a wrong key is refused.
    Anonymous,
    /// Any known key.
    User,
    /// An administrator's key.
    Admin,
}

/// Makes [`ApiKeyService`] services.
#[derive(Clone)]
pub struct ApiKeyLayer {
    pub(super) policy: Arc<Policy>,
}

type Exempt = dyn Fn(&Extensions) -> bool + Send + Sync;

#[derive(Clone)]
pub(super) struct Policy {
    pub(super) keys: Live<KeySet>,
    pub(super) rule: Rule,
    pub(super) hint: Arc<str>,
    pub(super) is_exempt: Option<Hook<Exempt>>,
    pub(super) is_refused_inside: Option<Hook<Exempt>>,
    pub(super) is_deferred: Option<Hook<dyn Fn(Operation) -> bool + Send + Sync>>,
    pub(super) failures: Option<Arc<Mutex<Failures>>>,
    pub(super) observer: Option<Hook<dyn Fn(FailedKey) + Send + Sync>>,
}

/// The rule that decides which key a request needs.
#[derive(Clone)]
pub(super) enum Rule {
    /// The default rule of the module's docs.
    ByRoute,
    Own(Arc<dyn Fn(&Parts) -> Access + Send + Sync>),
}

impl ApiKeyLayer {
    /// Accepts the keys in `keys`, by the rule in the [module's docs](super). If it is a [`Live`]
    /// set, the keys can be replaced at any time.
    pub fn new(keys: impl Into<Live<KeySet>>) -> Self {
        Self {
            policy: Arc::new(Policy {
                rule: Rule::ByRoute,
                keys: keys.into(),
                hint: "the operator of this gateway can configure one".into(),
                is_exempt: None,
                is_refused_inside: None,
                is_deferred: None,
                failures: None,
                observer: None,
            }),
        }
    }

    /// Decides for each request which key it needs.
    pub fn with_rule(mut self, rule: impl Fn(&Parts) -> Access + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.policy).rule = Rule::Own(Arc::new(rule));
        self
    }

    /// Lets these requests pass where others need a user's key, for example those from a trusted network.
    /// A known key of such a request counts, and an unknown one is ignored. It changes nothing about
    /// requests that need an administrator's key.
    pub fn with_exempt(
        mut self,
        is_exempt: impl Fn(&Extensions) -> bool + Send + Sync + 'static,
    ) -> Self {
        let is_exempt = Some(Hook(Arc::new(is_exempt) as Arc<_>));
        Arc::make_mut(&mut self.policy).is_exempt = is_exempt;
        self
    }

    /// Only identifies the senders of these requests, which the inner service refuses, for example because
    /// their path is unknown. A known key counts, so that the record of the refusal names its owner; an
    /// unknown, missing or expired one is ignored, so that the refusal is the same for everyone.
    pub fn with_refused_inside(
        mut self,
        is_refused: impl Fn(&Extensions) -> bool + Send + Sync + 'static,
    ) -> Self {
        let is_refused = Some(Hook(Arc::new(is_refused) as Arc<_>));
        Arc::make_mut(&mut self.policy).is_refused_inside = is_refused;
        self
    }

    /// Lets the inner service refuse these operations if a client may run models but not manage
    /// them. Such a request passes with a [`ManagementRefused`] in its extensions. The inner
    /// service must return that error unless it can answer without changing anything.
    ///
    /// [`ManagementRefused`]: super::ManagementRefused
    pub fn with_deferred(
        mut self,
        is_deferred: impl Fn(Operation) -> bool + Send + Sync + 'static,
    ) -> Self {
        let is_deferred = Some(Hook(Arc::new(is_deferred) as Arc<_>));
        Arc::make_mut(&mut self.policy).is_deferred = is_deferred;
        self
    }

    /// Answers requests with wrong keys with [`TooManyFailedKeys`](super::TooManyFailedKeys) after
    /// `most` of them have come from one address within `window`. A request with a valid key is never
    /// affected. The address is the request's [`ClientAddress`](crate::ClientAddress), and for IPv6
    /// its /64; without one there is no limit. At most 10,000 addresses are counted at the same time.
    pub fn with_failed_key_limit(mut self, most: NonZeroU32, window: Duration) -> Self {
        let failures = Failures::new(most, window);
        Arc::make_mut(&mut self.policy).failures = Some(Arc::new(Mutex::new(failures)));
        self
    }

    /// Calls this for each request whose key is refused, also for those above the limit of
    /// [`with_failed_key_limit`](Self::with_failed_key_limit).
    pub fn with_failed_key_observer(
        mut self,
        observer: impl Fn(FailedKey) + Send + Sync + 'static,
    ) -> Self {
        let observer = Some(Hook(Arc::new(observer) as Arc<_>));
        Arc::make_mut(&mut self.policy).observer = observer;
        self
    }

    /// A hint in the error for clients that may not manage models, while there is no
    /// administrator's key.
    pub fn with_management_hint(mut self, hint: impl Into<Arc<str>>) -> Self {
        Arc::make_mut(&mut self.policy).hint = hint.into();
        self
    }
}

pub(super) fn by_route(method: &Method, extensions: &Extensions, needs_key: bool) -> Access {
    let route = RouteMatch::of(extensions);
    // A server may treat such a path as one of its own, for example `/api/%64elete`.
    if !method.is_safe()
        && matches!(
            route,
            Some(RouteMatch::Unknown { .. } | RouteMatch::WrongMethod { .. })
        )
    {
        return Access::Admin;
    }
    match route.and_then(RouteMatch::operation) {
        Some(Operation::Root | Operation::Version) => Access::Open,
        Some(operation) if operation.is_management() => Access::Admin,
        _ if needs_key => Access::User,
        _ => Access::Open,
    }
}

impl<S> Layer<S> for ApiKeyLayer {
    type Service = ApiKeyService<S>;

    fn layer(&self, inner: S) -> ApiKeyService<S> {
        order::check::<S>("ApiKey");
        ApiKeyService {
            inner,
            policy: self.policy.clone(),
        }
    }
}

impl fmt::Debug for ApiKeyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.policy, f)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyLayer")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
