//! The layer and its service.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{Breaker, BreakerBody, BreakerFuture, Token};
use crate::classify::classify;
use crate::order;
use crate::service::{Hook, accessors};
use crate::{BoxError, ErrorCause, Failure, Side};

/// Reports the results of a backend's requests to its [`Breaker`]. See the [module](super).
#[derive(Clone, Debug)]
pub struct BreakerLayer {
    breaker: Breaker,
    rule: Arc<FailureRule>,
    refuses: bool,
}

/// The rules for what counts as a failure.
#[derive(Clone, Debug)]
pub(super) struct FailureRule {
    statuses: Vec<StatusCode>,
    is_failure: Hook<dyn Fn(&Failure) -> bool + Send + Sync>,
}

impl FailureRule {
    /// An unknown error counts as the backend's, because it comes from inside of this layer.
    pub(super) fn is_failure(&self, error: &BoxError) -> bool {
        Failure::find(&**error).is_none_or(|failure| (self.is_failure)(failure))
    }

    /// Settles the token by the response's head, or returns it if the body decides.
    pub(super) fn head<B>(&self, mut token: Token, answer: &Response<B>) -> Option<Token> {
        let is_listed = self.statuses.contains(&answer.status());
        if is_listed && ErrorCause::of(answer.extensions()).is_none() {
            token.fail();
            return None;
        }
        token.answered();
        Some(token)
    }
}

impl BreakerLayer {
    /// Reports to `breaker`. The statuses 502 and 504 are failures.
    pub fn new(breaker: Breaker) -> Self {
        Self {
            breaker,
            refuses: true,
            rule: Arc::new(FailureRule {
                statuses: [StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT].into(),
                is_failure: Hook(Arc::new(|failure| failure.side() == Side::Upstream)),
            }),
        }
    }

    /// Only these statuses are failures.
    pub fn with_statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        Arc::make_mut(&mut self.rule).statuses = statuses.into_iter().collect();
        self
    }

    /// Rejects no request: one without a token is allowed in every state, and its result counts.
    /// For programs whose load balancer avoids backends with an open breaker.
    pub fn without_refusals(mut self) -> Self {
        self.refuses = false;
        self
    }

    /// Only these errors are failures; by default, those of the backend's side.
    pub fn with_failures(
        mut self,
        is_failure: impl Fn(&Failure) -> bool + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.rule).is_failure = Hook(Arc::new(is_failure));
        self
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = BreakerService<S>;

    fn layer(&self, inner: S) -> BreakerService<S> {
        order::check::<S>("Breaker");
        BreakerService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`BreakerLayer`].
#[derive(Clone, Debug)]
pub struct BreakerService<S> {
    pub(super) inner: S,
    pub(super) layer: BreakerLayer,
}

accessors!([S] BreakerService<S>, BreakerLayer);

impl<S, B, R> Service<Request<B>> for BreakerService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Response = Response<BreakerBody<R>>;
    type Error = BoxError;
    type Future = BreakerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(classify)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let token = match Breaker::take_token(request.extensions_mut()) {
            Some(token) => Ok(token),
            None if !self.layer.refuses => Ok(self.layer.breaker.acquire_anyway()),
            None => self.layer.breaker.acquire(),
        };
        match token {
            Ok(token) => {
                let rule = self.layer.rule.clone();
                BreakerFuture::counted(self.inner.call(request), token, rule)
            }
            Err(open) => BreakerFuture::refused(Failure::from(open)),
        }
    }
}
