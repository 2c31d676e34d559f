//! The future.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::remove_hop_by_hop;
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`ForwardService`](super::ForwardService).
    #[derive(Debug)]
    pub struct ForwardFuture<F> {
        #[pin]
        inner: Option<F>,
        // The error, if there is no inner future.
        failed: Option<Failure>,
    }
}

impl<F> ForwardFuture<F> {
    pub(super) fn new(inner: F) -> Self {
        Self {
            inner: Some(inner),
            failed: None,
        }
    }

    pub(super) fn failed(failure: Failure) -> Self {
        Self {
            inner: None,
            failed: Some(failure),
        }
    }
}

impl<F, R, E> Future for ForwardFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return match this.failed.take() {
                Some(failure) => Poll::Ready(Err(failure.into())),
                None => Poll::Pending,
            };
        };
        let answer = ready!(inner.poll(cx)).map_err(Into::into);
        Poll::Ready(answer.map(|mut answer| {
            remove_hop_by_hop(answer.headers_mut(), |_| false);
            answer
        }))
    }
}
