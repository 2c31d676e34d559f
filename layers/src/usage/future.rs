//! The future of the response head.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::Separator;
use super::report::ReportPlace;
use super::{UsageBody, UsageReport};

pin_project! {
    /// The future of [`UsageService`](super::UsageService).
    #[derive(Debug)]
    pub struct UsageFuture<F> {
        #[pin]
        inner: F,
        // `None` if the response is not observed.
        report_place: Option<ReportPlace>,
        has_text: bool,
    }
}

impl<F> UsageFuture<F> {
    pub(super) fn new(inner: F, report_place: Option<ReportPlace>, has_text: bool) -> Self {
        Self {
            inner,
            report_place,
            has_text,
        }
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
        let report_place = this
            .report_place
            .take()
            .filter(|_| answer.status().is_success());
        let observed = report_place
            .and_then(|report_place| Some((report_place, Separator::of(answer.headers())?)));
        let (mut parts, body) = answer.into_parts();
        let body = match observed {
            Some((report_place, separator)) => {
                let report = UsageReport::default();
                report_place.note(report.clone(), &mut parts.extensions);
                UsageBody::observed(body, separator, *this.has_text, report)
            }
            None => UsageBody::unobserved(body),
        };
        Poll::Ready(Ok(Response::from_parts(parts, body)))
    }
}
