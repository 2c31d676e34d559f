//! The future of the response head.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::Separator;
use super::report::Told;
use super::{UsageBody, UsageReport};

pin_project! {
    /// The future of [`UsageService`](super::UsageService).
    #[derive(Debug)]
    pub struct UsageFuture<F> {
        #[pin]
        inner: F,
        // `None` if the answer is not observed.
        told: Option<Told>,
    }
}

impl<F> UsageFuture<F> {
    pub(super) fn new(inner: F, told: Option<Told>) -> Self {
        Self { inner, told }
    }
}

impl<F, B, E> Future for UsageFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<UsageBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx))?;
        let told = this.told.take().filter(|_| answer.status().is_success());
        let watched = told.and_then(|told| Some((told, Separator::of(answer.headers())?)));
        let (mut parts, body) = answer.into_parts();
        let body = match watched {
            Some((told, separator)) => {
                let report = UsageReport::default();
                told.note(report.clone(), &mut parts.extensions);
                UsageBody::watched(body, separator, report)
            }
            None => UsageBody::unwatched(body),
        };
        Poll::Ready(Ok(Response::from_parts(parts, body)))
    }
}
