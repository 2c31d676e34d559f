//! The id of a request: the client's own, or a random one, for the backend and for the answer.
//!
//! tower-http has two layers for this. They look the header up four times and keep the id in the
//! extensions, where nobody here asks for it and each retry would copy it; together they cost
//! more than any other layer that only passes a request on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::Entry;
use http::{HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use uuid::Uuid;

/// Carries the id of a request, the client's own if it sent one.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Makes [`RequestIdService`]s.
#[derive(Clone, Copy, Debug)]
pub struct RequestIdLayer;

impl<S> Layer<S> for RequestIdLayer {
    type Service = RequestIdService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestIdService { inner }
    }
}

/// The service of [`RequestIdLayer`].
#[derive(Clone, Debug)]
pub struct RequestIdService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for RequestIdService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = RequestIdFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = match request.headers_mut().entry(REQUEST_ID_HEADER) {
            Entry::Occupied(own) => Some(own.get().clone()),
            Entry::Vacant(place) => random_id().inspect(|id| {
                place.insert(id.clone());
            }),
        };
        RequestIdFuture {
            inner: self.inner.call(request),
            id,
        }
    }
}

/// Without asking the system for each.
fn random_id() -> Option<HeaderValue> {
    let mut text = Uuid::encode_buffer();
    let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).ok()
}

pin_project! {
    /// The future of [`RequestIdService`].
    #[derive(Debug)]
    pub struct RequestIdFuture<F> {
        #[pin]
        inner: F,
        id: Option<HeaderValue>,
    }
}

impl<F, R, E> Future for RequestIdFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx));
        if let (Ok(answer), Some(id)) = (&mut answer, this.id.take()) {
            // A backend that gives its own is believed.
            answer.headers_mut().entry(REQUEST_ID_HEADER).or_insert(id);
        }
        Poll::Ready(answer)
    }
}
