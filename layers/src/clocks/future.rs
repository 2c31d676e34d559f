//! The clocks before the head of an answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::request_body::Sent;
use super::{ClockedBody, FirstByteTimeout, StreamClocksLayer, TotalTimeout};
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`StreamClocks`](super::StreamClocks).
    #[derive(Debug)]
    pub struct ClockedFuture<F> {
        #[pin]
        inner: F,
        sent: Sent,
        clocks: StreamClocksLayer,
        // When everything must be over.
        deadline: Option<Instant>,
        // One timer for both clocks; boxed, so that the answer's body can take it over.
        timer: Option<Pin<Box<Sleep>>>,
        first_byte_until: Option<Instant>,
    }
}

impl<F> ClockedFuture<F> {
    pub(super) fn new(inner: F, sent: Sent, clocks: StreamClocksLayer) -> Self {
        Self {
            inner,
            sent,
            clocks,
            deadline: clocks.total.map(|total| Instant::now() + total),
            timer: None,
            first_byte_until: None,
        }
    }
}

impl<F, R, E> Future for ClockedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<ClockedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.inner.poll(cx) {
            let (clocks, deadline, timer) = (*this.clocks, *this.deadline, this.timer.take());
            let clocked = |body| ClockedBody::new(body, clocks, deadline, timer);
            return Poll::Ready(answer.map(|answer| answer.map(clocked)).map_err(Into::into));
        }
        if let Some(limit) = this.clocks.first_byte
            && this.first_byte_until.is_none()
            && this.sent.poll(cx).is_ready()
        {
            *this.first_byte_until = Some(Instant::now() + limit);
        }
        let due = [*this.first_byte_until, *this.deadline]
            .into_iter()
            .flatten()
            .min();
        let Some(due) = due else {
            return Poll::Pending;
        };
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let error = match (this.clocks.total, this.clocks.first_byte) {
            (Some(after), _) if *this.deadline == Some(due) => {
                Failure::from(TotalTimeout { after })
            }
            (_, after) => Failure::from(FirstByteTimeout {
                after: after.unwrap_or_default(),
            }),
        };
        Poll::Ready(Err(error.into()))
    }
}
