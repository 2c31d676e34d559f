//! The time-outs before the head of a response.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::layer::Limits;
use super::request_body::Sent;
use super::{FirstByteTimeout, StreamClocksBody, TotalTimeout};
use crate::{BoxError, Deadline, Failure};

pin_project! {
    /// The future of [`StreamClocksService`](super::StreamClocksService).
    #[derive(Debug)]
    pub struct StreamClocksFuture<F> {
        #[pin]
        inner: F,
        sent: Sent,
        limits: Limits,
        // The end of the total time.
        total: Option<Instant>,
        // For both clocks; it moves into the response's body.
        deadline: Deadline,
        // The first-byte clock is running.
        is_sent: bool,
    }
}

impl<F> StreamClocksFuture<F> {
    pub(super) fn new(inner: F, sent: Sent, limits: Limits) -> Self {
        Self {
            inner,
            sent,
            limits,
            // A limit beyond the range of `Instant` counts as none.
            total: limits
                .total
                .and_then(|total| Instant::now().checked_add(total)),
            deadline: Deadline::default(),
            is_sent: false,
        }
    }
}

impl<F, R, E> Future for StreamClocksFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<StreamClocksBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.inner.poll(cx) {
            let (head, body) = match answer {
                Ok(answer) => answer.into_parts(),
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            let deadline = std::mem::take(this.deadline);
            let body = StreamClocksBody::new(body, *this.limits, *this.total, deadline);
            return Poll::Ready(Ok(Response::from_parts(head, body)));
        }
        if !*this.is_sent {
            *this.is_sent = this.sent.poll(cx).is_ready();
            let limit = this.limits.first_byte.filter(|_| *this.is_sent);
            let first_byte = limit.and_then(|limit| Instant::now().checked_add(limit));
            this.deadline
                .arm(first_byte.into_iter().chain(*this.total).min());
        }
        ready!(this.deadline.poll(cx));
        let total = this.total.filter(|total| Instant::now() >= *total);
        let failure = match (total.and(this.limits.total), this.limits.first_byte) {
            (None, Some(after)) => Failure::from(FirstByteTimeout {
                after,
                limit: this.limits.names.first_byte,
            }),
            (total, _) => Failure::from(TotalTimeout {
                after: total.unwrap_or_default(),
                limit: this.limits.names.total,
            }),
        };
        Poll::Ready(Err(failure.into()))
    }
}
