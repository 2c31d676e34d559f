//! The layer and its service.

use std::task::{Context, Poll};

use http::{Extensions, Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::UsageFuture;
use super::report::ReportPlace;
use crate::order;
use crate::service::accessors;
use crate::{Operation, RouteMatch};

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
        let extensions = request.extensions();
        let route = RouteMatch::of(extensions);
        let operation = route.and_then(RouteMatch::operation);
        let is_observed = route.is_none() || operation.is_some_and(Operation::is_inference);
        // An image or a list of scores is no text of a model.
        let is_text = matches!(
            operation,
            Some(Operation::Chat | Operation::Generate) | None
        );
        let has_text = is_text && !has_no_prompt(extensions);
        let told = is_observed.then(|| ReportPlace::of(extensions));
        UsageFuture::new(self.inner.call(request), told, has_text)
    }
}

/// Whether the request loads or unloads a model.
fn has_no_prompt(_request: &Extensions) -> bool {
    #[cfg(feature = "llm-request")]
    if let Some(llm) = crate::LlmRequest::of(_request) {
        return llm.has_no_prompt;
    }
    false
}
