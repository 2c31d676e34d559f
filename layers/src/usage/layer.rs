//! The layer and its service.

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::UsageFuture;
use super::report::ReportPlace;
use crate::RouteMatch;
use crate::order;
use crate::service::accessors;

/// Attaches a [`UsageReport`](super::UsageReport) to each response: in the request's
/// [`Record`](crate::Record) if it has one, otherwise in the response's extensions. See the
/// [module](super).
///
/// No report is attached to errors, to compressed responses, to responses that are neither JSON nor a
/// stream, and to responses of requests whose [`RouteMatch`] is not an inference operation.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct UsageLayer;

impl UsageLayer {
    /// The layer. It has no options.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for UsageLayer {
    type Service = UsageService<S>;

    fn layer(&self, inner: S) -> UsageService<S> {
        order::check::<S>("Usage");
        UsageService { inner }
    }
}

/// The service of [`UsageLayer`].
#[derive(Clone, Debug)]
pub struct UsageService<S> {
    pub(super) inner: S,
}

accessors!([S] UsageService<S>, UsageLayer);

impl<S, B, R> Service<Request<B>> for UsageService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<super::UsageBody<R>>;
    type Error = S::Error;
    type Future = UsageFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_observed = RouteMatch::of(request.extensions()).is_none_or(|route| {
            route
                .operation()
                .is_some_and(|operation| operation.is_inference())
        });
        let told = is_observed.then(|| ReportPlace::of(request.extensions()));
        UsageFuture::new(self.inner.call(request), told)
    }
}
