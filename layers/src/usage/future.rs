//! The answer's head.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::Separator;
use super::{UsageBody, UsageReport};

pin_project! {
    /// The future of [`UsageService`](super::UsageService).
    #[derive(Debug)]
    pub struct UsageFuture<F> {
        #[pin]
        inner: F,
        is_watched: bool,
    }
}

impl<F> UsageFuture<F> {
    pub(super) fn new(inner: F, is_watched: bool) -> Self {
        Self { inner, is_watched }
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
        let is_watched = *this.is_watched && answer.status().is_success();
        let separator = Separator::of(answer.headers()).filter(|_| is_watched);
        let (mut parts, body) = answer.into_parts();
        let body = match separator {
            Some(separator) => {
                let report = UsageReport::default();
                parts.extensions.insert(report.clone());
                UsageBody::watched(body, separator, report)
            }
            None => UsageBody::unwatched(body),
        };
        Poll::Ready(Ok(Response::from_parts(parts, body)))
    }
}
