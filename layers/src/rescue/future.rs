//! The response in progress.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::report::WithRequest;
use super::{RescueBody, ShuttingDown};
use crate::classify::classify;
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`RescueService`](super::RescueService).
    #[derive(Debug)]
    pub struct RescueFuture<F> {
        #[pin]
        inner: Option<F>,
        // The error, if there is no inner future.
        failed: Option<BoxError>,
        // `None` once the response was returned.
        with_request: Option<Pin<Box<WithRequest>>>,
    }
}

impl<F> RescueFuture<F> {
    pub(super) fn new(inner: F, with_request: Pin<Box<WithRequest>>) -> Self {
        Self {
            inner: Some(inner),
            failed: None,
            with_request: Some(with_request),
        }
    }

    pub(super) fn failed(error: BoxError, with_request: Pin<Box<WithRequest>>) -> Self {
        Self {
            inner: None,
            failed: Some(error),
            with_request: Some(with_request),
        }
    }
}

impl<F, R, E> Future for RescueFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<RescueBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let polled = match this.inner.as_mut().as_pin_mut() {
            Some(inner) => inner.poll(cx),
            None => Poll::Pending,
        };
        let error = match polled {
            Poll::Ready(Ok(answer)) => {
                this.inner.set(None);
                let Some(mut with_request) = this.with_request.take() else {
                    return Poll::Pending;
                };
                if with_request.reporter.lacks_text(&answer) {
                    let answer = with_request.reporter.with_text(answer);
                    return Poll::Ready(Ok(answer.map(RescueBody::whole)));
                }
                with_request.as_mut().watch(&answer);
                return Poll::Ready(Ok(answer.map(|body| RescueBody::new(body, with_request))));
            }
            Poll::Ready(Err(error)) => classify(error),
            Poll::Pending => match this.failed.take() {
                Some(error) => error,
                None => {
                    let Some(with_request) = this.with_request else {
                        return Poll::Pending;
                    };
                    ready!(with_request.as_mut().poll_cutoff(cx));
                    Failure::from(ShuttingDown).into()
                }
            },
        };
        // The inner future is dropped now, not when the client has read the response.
        this.inner.set(None);
        match this.with_request.take() {
            Some(with_request) => {
                let answer = with_request.reporter.answer(&error);
                Poll::Ready(Ok(answer.map(RescueBody::whole)))
            }
            None => Poll::Pending,
        }
    }
}
