//! The layer and its service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::completion::Completion;
use super::{Observer, Outcome, OutcomeBody, OutcomeFuture};
use crate::order;
use crate::service::accessors;

/// Opens a [`Record`](super::Record) for each request and reports its end to an [`Observer`].
///
/// See the [module](super) for the definition of the end and for the layer's position.
#[derive(Clone)]
pub struct OutcomeLayer {
    observer: Arc<dyn Observer>,
}

impl OutcomeLayer {
    /// Reports each request to `observer`.
    pub fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer }
    }
}

impl fmt::Debug for OutcomeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for OutcomeLayer {
    type Service = OutcomeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("Outcome");
        OutcomeService {
            inner,
            observer: self.observer.clone(),
        }
    }
}

/// The service of [`OutcomeLayer`].
#[derive(Clone)]
pub struct OutcomeService<S> {
    pub(super) inner: S,
    pub(super) observer: Arc<dyn Observer>,
}

accessors!([S] OutcomeService<S>, OutcomeLayer);

impl<S: fmt::Debug> fmt::Debug for OutcomeService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B, RB> Service<Request<B>> for OutcomeService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body,
{
    type Response = Response<OutcomeBody<RB>>;
    type Error = S::Error;
    type Future = OutcomeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let outcome = Outcome::of(&request, Instant::now());
        let answer_has_no_body = request.method() == Method::HEAD;
        let completion = Completion::open(outcome, self.observer.clone());
        let record = completion.record().clone();
        record.put_into(request.extensions_mut());
        OutcomeFuture::new(self.inner.call(request), completion, answer_has_no_body)
    }
}
