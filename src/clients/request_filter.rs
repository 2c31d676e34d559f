//! Filters: rules of the gateway that refuse a request, or mark it for the layers inside.
//!
//! tower's filter does the same, but it takes the request by value and gives it back, and so copies it
//! four times.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::Request;
use llamatower_layers::{BoxError, Failure};
use tower::{Layer, Service};

/// A rule for requests.
pub trait RequestFilter {
    /// Refuses the request with an error, or lets it pass; may change its head.
    ///
    /// # Errors
    /// The request is refused.
    fn filter<B>(&self, request: &mut Request<B>) -> Result<(), Failure>;
}

/// Two rules, of which the second sees what the first has changed.
impl<A: RequestFilter, B: RequestFilter> RequestFilter for (A, B) {
    fn filter<T>(&self, request: &mut Request<T>) -> Result<(), Failure> {
        self.0.filter(request)?;
        self.1.filter(request)
    }
}

/// Applies a rule to each request before the inner service gets it.
#[derive(Debug)]
pub struct RequestFilterLayer<F>(Arc<F>);

impl<F: RequestFilter> RequestFilterLayer<F> {
    /// A layer with this rule.
    pub fn new(filter: F) -> Self {
        Self(Arc::new(filter))
    }
}

impl<S, F> Layer<S> for RequestFilterLayer<F> {
    type Service = Filtered<S, F>;

    fn layer(&self, inner: S) -> Filtered<S, F> {
        let filter = self.0.clone();
        Filtered { inner, filter }
    }
}

/// The service of [`RequestFilterLayer`].
#[derive(Debug)]
pub struct Filtered<S, F> {
    inner: S,
    filter: Arc<F>,
}

impl<S: Clone, F> Clone for Filtered<S, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            filter: self.filter.clone(),
        }
    }
}

impl<S, F, B> Service<Request<B>> for Filtered<S, F>
where
    S: Service<Request<B>, Error = BoxError>,
    F: RequestFilter,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.filter.filter(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => Either::Right(ready(Err(refusal.into()))),
        }
    }
}
