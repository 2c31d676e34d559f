//! The layer that refuses what is no endpoint.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Request;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::RouteMatch;
use crate::{BoxError, Failure};

/// Refuses each request that is for no endpoint, or for one by a wrong method: with
/// [`NotFound`](super::NotFound) or [`MethodNotAllowed`](super::MethodNotAllowed).
///
/// It belongs inside of what makes answers of errors. tower's filter with
/// [`RouteMatch::require`] does the same, and moves the whole request to ask.
///
/// ```
/// use http::{Request, Response};
/// use llamatower_layers::endpoint::{EndpointLayer, RequireEndpointLayer};
/// use llamatower_layers::{BoxError, EndpointTable, Failure};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(EndpointLayer::new(EndpointTable::ollama()))
///     .layer(RequireEndpointLayer)
///     .service(service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(()))));
///
/// let unknown = Request::get("/api/unknown").body(()).unwrap();
/// let error = service.oneshot(unknown).await.unwrap_err();
/// assert_eq!(Failure::find(&*error).unwrap().status(), 404);
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequireEndpointLayer;

impl<S> Layer<S> for RequireEndpointLayer {
    type Service = RequireEndpoint<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireEndpoint { inner }
    }
}

/// The service of [`RequireEndpointLayer`].
#[derive(Clone, Debug)]
pub struct RequireEndpoint<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for RequireEndpoint<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RequireEndpointFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let step = match RouteMatch::refusal(request.extensions()) {
            None => Step::Called {
                inner: self.inner.call(request),
            },
            Some(failure) => Step::Refused {
                failure: Some(failure),
            },
        };
        RequireEndpointFuture { step }
    }
}

pin_project! {
    /// The future of [`RequireEndpoint`].
    #[derive(Debug)]
    pub struct RequireEndpointFuture<F> {
        #[pin]
        step: Step<F>,
    }
}

pin_project! {
    #[project = StepProjection]
    #[derive(Debug)]
    enum Step<F> {
        Called { #[pin] inner: F },
        Refused { failure: Option<Failure> },
    }
}

impl<F, T, E> Future for RequireEndpointFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().step.project() {
            StepProjection::Called { inner } => inner.poll(cx).map_err(Into::into),
            StepProjection::Refused { failure } => match failure.take() {
                Some(failure) => Poll::Ready(Err(failure.into())),
                None => Poll::Pending,
            },
        }
    }
}
