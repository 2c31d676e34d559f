//! The answer under way.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::Watch;
use super::layer::Cutoff;
use super::report::Reporter;
use super::{RescueBody, ShuttingDown};
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`RescueService`](super::RescueService).
    #[derive(Debug)]
    pub struct RescueFuture<F> {
        #[pin]
        inner: Option<F>,
        // Why there is no inner future.
        failed: Option<BoxError>,
        cutoff: Option<Cutoff>,
        // `None` once the answer was given.
        reporter: Option<Reporter>,
    }
}

impl<F> RescueFuture<F> {
    pub(super) fn new(inner: F, cutoff: Option<Cutoff>, reporter: Reporter) -> Self {
        Self {
            inner: Some(inner),
            failed: None,
            cutoff,
            reporter: Some(reporter),
        }
    }

    pub(super) fn failed(error: BoxError, reporter: Reporter) -> Self {
        Self {
            inner: None,
            failed: Some(error),
            cutoff: None,
            reporter: Some(reporter),
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
                let Some(reporter) = this.reporter.take() else {
                    return Poll::Pending;
                };
                let watch = Watch::of(&answer, &reporter);
                let cutoff = this.cutoff.take();
                return Poll::Ready(Ok(
                    answer.map(|body| RescueBody::new(body, watch, cutoff, reporter))
                ));
            }
            Poll::Ready(Err(error)) => error.into(),
            Poll::Pending => match this.failed.take() {
                Some(error) => error,
                None => {
                    let cutoff = this.cutoff.as_mut();
                    ready!(cutoff.map_or(Poll::Pending, |cutoff| cutoff.poll(cx)));
                    Failure::from(ShuttingDown).into()
                }
            },
        };
        // What was waited for is given up now, not when the client has read the answer.
        this.inner.set(None);
        match this.reporter.take() {
            Some(reporter) => Poll::Ready(Ok(reporter.answer(&error).map(RescueBody::whole))),
            None => Poll::Pending,
        }
    }
}
