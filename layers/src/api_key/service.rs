//! The service.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Extensions, Request};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::credential::{self, ShownKey, ShownKeys, Taken};
use super::error::AmbiguousCredential;
use super::layer::{Policy, Rule, by_route};
use super::{
    Access, AuthenticatedAs, ExpiredKey, FailedKey, Identity, ManagementRefused, MissingKey, Role,
    TooManyFailedKeys, WrongKey,
};
use crate::service::accessors;
use crate::{BoxError, ClientAddress, Failure, RouteMatch};

/// The service of [`ApiKeyLayer`](super::ApiKeyLayer).
#[derive(Clone, Debug)]
pub struct ApiKeyService<S> {
    pub(super) inner: S,
    pub(super) policy: Arc<Policy>,
}

accessors!([S] ApiKeyService<S>, super::ApiKeyLayer);

impl Policy {
    /// The owner of the request's key, if the request is allowed; without a known key the client that
    /// was `authenticated` in another way.
    fn authorize(
        &self,
        shown: Result<ShownKeys, AmbiguousCredential>,
        authenticated: Found,
        access: Access,
    ) -> Result<Option<Identity>, Failure> {
        if access == Access::Open {
            let found = shown.and_then(|shown| self.find(&shown));
            return Ok(found
                .ok()
                .and_then(|found| found.identity)
                .or(authenticated.identity));
        }
        let shown = shown?;
        let Found { identity, expired } = self.find(&shown)?;
        let expired = expired.or(authenticated.expired);
        let has_expired = expired.is_some();
        let as_expired = || {
            let owner = expired.unwrap_or_default();
            Err(ExpiredKey { owner }.into())
        };
        let known = identity.or(authenticated.identity);
        match (access, &known) {
            (
                Access::Admin,
                Some(Identity {
                    role: Role::User, ..
                }),
            ) => Err(self.refuse_management(known)),
            // What the key could do would not tell what to do.
            (Access::Admin, None) if has_expired => as_expired(),
            (Access::Admin, None) if !self.keys.get().has(Role::Admin) => {
                Err(self.refuse_management(None))
            }
            (Access::Admin, None) if shown.is_empty() => Err(self.refuse_management(None)),
            (_, Some(_)) => Ok(known),
            (_, None) if has_expired => as_expired(),
            (_, None) if !shown.is_empty() => Err(WrongKey.into()),
            (Access::Anonymous, None) => Ok(None),
            (_, None) => Err(MissingKey.into()),
        }
    }

    /// What a request needs that may be exempt from a user's key, or is refused inside.
    fn exempt(&self, access: Access, request: &Extensions) -> Access {
        let refused_inside = self.is_refused_inside.as_ref();
        if refused_inside.is_some_and(|is_refused| is_refused(request)) {
            return Access::Open;
        }
        match &self.is_exempt {
            Some(is_exempt) if access == Access::User && is_exempt(request) => Access::Open,
            _ => access,
        }
    }

    /// Passes a request with its refusal to the inner service, if only management is refused and
    /// the operation is deferred.
    fn deferred<B>(
        &self,
        authorized: Result<Option<Identity>, Failure>,
        request: &mut Request<B>,
    ) -> Result<Option<Identity>, Failure> {
        let Err(failure) = authorized else {
            return authorized;
        };
        let operation = RouteMatch::of(request.extensions()).and_then(RouteMatch::operation);
        let is_deferred = match (operation, &self.is_deferred) {
            (Some(operation), Some(is_deferred)) => is_deferred(operation),
            _ => false,
        };
        if !is_deferred {
            return Err(failure);
        }
        let refused = match failure.caused_by::<ManagementRefused>() {
            Some(refused) => refused.clone(),
            // Some clients must send a credential. Without keys for users it does not matter.
            None if failure.caused_by::<WrongKey>().is_some()
                || failure.caused_by::<ExpiredKey>().is_some() =>
            {
                self.refusal(None)
            }
            None => return Err(failure),
        };
        if !refused.may_run_models {
            return Err(failure);
        }
        let identity = refused.identity.clone();
        request.extensions_mut().insert(refused);
        Ok(identity)
    }

    /// The owner of the known key among the request's keys. Other credentials are ignored: they may
    /// be a proxy's password, or a value that a client library requires.
    ///
    /// # Errors
    /// There are two different known keys, so the owner is ambiguous.
    fn find(&self, shown: &[ShownKey]) -> Result<Found, AmbiguousCredential> {
        let keys = self.keys.get();
        let mut found: Option<(&[u8], &Identity)> = None;
        let mut expired = None;
        for key in shown.iter().map(ShownKey::as_bytes) {
            let Some(known) = keys.find_bytes(key) else {
                continue;
            };
            if known.is_expired() {
                expired = Some(known.identity.name.clone());
                continue;
            }
            if found.is_some_and(|(other, _)| other != key) {
                return Err(AmbiguousCredential);
            }
            found = Some((key, &known.identity));
        }
        Ok(Found {
            identity: found.map(|(_, identity)| identity.clone()),
            expired,
        })
    }

    /// Tells the observer of a refused key, and replaces the error if too many have come from the
    /// client's address.
    fn slow_down(
        &self,
        failure: Failure,
        has_credential: bool,
        extensions: &Extensions,
    ) -> Failure {
        let Some(failed) = failed_key(&failure, has_credential) else {
            return failure;
        };
        if let Some(observer) = &self.observer {
            observer(failed);
        }
        let address = ClientAddress::of(extensions);
        let (Some(failures), Some(address)) = (&self.failures, address) else {
            return failure;
        };
        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.count(address.0, Instant::now()) {
            Some(retry_after) => TooManyFailedKeys { retry_after }.into(),
            None => failure,
        }
    }

    /// The identity of a client that was authenticated by something else than a key.
    fn authenticated(&self, extensions: &Extensions) -> Found {
        let Some(AuthenticatedAs(name)) = extensions.get() else {
            return Found::default();
        };
        let keys = self.keys.get();
        let identity = keys.named(name).cloned();
        Found {
            expired: (identity.is_none() && keys.has_only_expired(name)).then(|| name.clone()),
            identity,
        }
    }

    fn refuse_management(&self, identity: Option<Identity>) -> Failure {
        self.refusal(identity).into()
    }

    fn refusal(&self, identity: Option<Identity>) -> ManagementRefused {
        let keys = self.keys.get();
        ManagementRefused {
            hint: match keys.has(Role::Admin) {
                true => "ask the operator of this gateway for one".into(),
                false => self.hint.clone(),
            },
            may_run_models: identity.is_some() || !keys.has(Role::User),
            identity,
        }
    }
}

/// The owner of the keys in a request.
#[derive(Default)]
struct Found {
    identity: Option<Identity>,
    /// The owner of a known key that has expired.
    expired: Option<Arc<str>>,
}

/// The owner of the key of a refused request, if it is known.
fn owner(failure: &Failure) -> Option<&Arc<str>> {
    if let Some(expired) = failure.caused_by::<ExpiredKey>() {
        return Some(&expired.owner);
    }
    let refused = failure.caused_by::<ManagementRefused>()?;
    Some(&refused.identity.as_ref()?.name)
}

/// Names the owner of the key in the request's record.
fn record(_request: &Extensions, _owner: &Arc<str>) {
    #[cfg(feature = "outcome")]
    crate::Record::update_in(_request, |outcome| {
        outcome.identity = Some(_owner.clone());
    });
}

/// Why the key of a refused request was refused, if that was the reason.
fn failed_key(failure: &Failure, has_credential: bool) -> Option<FailedKey> {
    if failure.caused_by::<WrongKey>().is_some() {
        return Some(FailedKey::Unknown);
    }
    if failure.caused_by::<ExpiredKey>().is_some() {
        return Some(FailedKey::Expired);
    }
    let is_unreadable = has_credential && failure.caused_by::<MissingKey>().is_some();
    let is_malformed = is_unreadable || failure.caused_by::<AmbiguousCredential>().is_some();
    is_malformed.then_some(FailedKey::Malformed)
}

impl<S, B> Service<Request<B>> for ApiKeyService<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ApiKeyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Taken {
            shown,
            has_credential,
        } = credential::take(request.headers_mut());
        let access = match &self.policy.rule {
            Rule::ByRoute => {
                let needs_key = self.policy.keys.get().has(Role::User);
                by_route(request.method(), request.extensions(), needs_key)
            }
            Rule::Own(rule) => {
                let (parts, body) = request.into_parts();
                let access = rule(&parts);
                request = Request::from_parts(parts, body);
                access
            }
        };
        let access = self.policy.exempt(access, request.extensions());
        let authenticated = self.policy.authenticated(request.extensions());
        let authorized = self.policy.authorize(shown, authenticated, access);
        let known = match self.policy.deferred(authorized, &mut request) {
            Ok(known) => known,
            Err(failure) => {
                let extensions = request.extensions();
                if let Some(owner) = owner(&failure) {
                    record(extensions, owner);
                }
                let failure = self.policy.slow_down(failure, has_credential, extensions);
                let failure = Some(failure);
                return ApiKeyFuture {
                    kind: Kind::Refused { failure },
                };
            }
        };
        if let Some(identity) = known {
            record(request.extensions(), &identity.name);
            request.extensions_mut().insert(identity);
        }
        ApiKeyFuture {
            kind: Kind::Called {
                called: self.inner.call(request),
            },
        }
    }
}

pin_project! {
    /// The future of [`ApiKeyService`].
    #[derive(Debug)]
    pub struct ApiKeyFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<F> {
        Called { #[pin] called: F },
        Refused { failure: Option<Failure> },
    }
}

impl<F, T, E> Future for ApiKeyFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Called { called } => called.poll(cx).map_err(Into::into),
            KindProjection::Refused { failure } => match failure.take() {
                Some(failure) => Poll::Ready(Err(failure.into())),
                None => Poll::Pending,
            },
        }
    }
}
