//! The layer and its service.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{Breaker, BreakerBody, BreakerFuture, Token};
use crate::{BoxError, Failure, Side};

/// Judges a backend's requests for its [`Breaker`]. See the [module](super).
#[derive(Clone, Debug)]
pub struct BreakerLayer {
    breaker: Breaker,
    judge: Arc<Judge>,
    refuses: bool,
}

/// What counts as the backend's failure.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    statuses: Vec<StatusCode>,
    is_failure: fn(&Failure) -> bool,
}

impl Judge {
    /// An error that says nothing of itself is taken for the backend's: it came from where the
    /// backend is.
    pub(super) fn is_failure(&self, error: &BoxError) -> bool {
        Failure::find(&**error).is_none_or(self.is_failure)
    }

    /// Judges an answer by its head; gives the token back if its body is to be seen first.
    pub(super) fn head(&self, mut token: Token, status: StatusCode) -> Option<Token> {
        if self.statuses.contains(&status) {
            token.fail();
            return None;
        }
        token.answered();
        Some(token)
    }
}

impl BreakerLayer {
    /// Judges for `breaker`. 502 and 504 are failures.
    pub fn new(breaker: Breaker) -> Self {
        Self {
            breaker,
            refuses: true,
            judge: Arc::new(Judge {
                statuses: [StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT].into(),
                is_failure: |failure| failure.side() == Side::Upstream,
            }),
        }
    }

    /// Answers of these statuses are failures, and no others.
    pub fn with_statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        Arc::make_mut(&mut self.judge).statuses = statuses.into_iter().collect();
        self
    }

    /// Refuses nothing: a request that brings no token is let through whatever the state, and judged.
    /// For programs in which the choice among backends is what leaves one alone.
    pub fn without_refusals(mut self) -> Self {
        self.refuses = false;
        self
    }

    /// Errors of this kind are failures, and no others; those of the backend's side unless said.
    pub fn with_failures(mut self, is_failure: fn(&Failure) -> bool) -> Self {
        Arc::make_mut(&mut self.judge).is_failure = is_failure;
        self
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = BreakerService<S>;

    fn layer(&self, inner: S) -> BreakerService<S> {
        BreakerService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`BreakerLayer`].
#[derive(Clone, Debug)]
pub struct BreakerService<S> {
    inner: S,
    layer: BreakerLayer,
}

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
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let token = match Breaker::take_token(request.extensions_mut()) {
            Some(token) => Ok(token),
            None if !self.layer.refuses => Ok(self.layer.breaker.acquire_anyway()),
            None => self.layer.breaker.acquire(),
        };
        match token {
            Ok(token) => {
                let judge = self.layer.judge.clone();
                BreakerFuture::judged(self.inner.call(request), token, judge)
            }
            Err(open) => BreakerFuture::refused(Failure::from(open)),
        }
    }
}
