//! The future.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::ClassifyBody;
use super::layer::Policy;
use crate::BoxError;

pin_project! {
    /// The future of [`ClassifyService`](super::ClassifyService).
    #[derive(Debug)]
    pub struct ClassifyFuture<F> {
        #[pin]
        inner: F,
        policy: Policy,
    }
}

impl<F> ClassifyFuture<F> {
    pub(super) fn new(inner: F, policy: Policy) -> Self {
        Self { inner, policy }
    }
}

impl<F, R, E> Future for ClassifyFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<ClassifyBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.inner.poll(cx)) {
            Ok(answer) => Ok(answer.map(|body| ClassifyBody::new(body, this.policy.clone()))),
            Err(error) => Err(this.policy.apply(error)),
        })
    }
}
