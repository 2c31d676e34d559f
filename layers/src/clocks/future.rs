//! The clocks before the head of an answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::request_body::Sent;
use super::timer::Timer;
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
        // One timer for both clocks, which the answer's body takes over.
        timer: Timer,
        // The first-byte clock runs; its end is `None` if no `Instant` can hold it.
        is_sent: bool,
        is_set: bool,
    }
}

impl<F> ClockedFuture<F> {
    pub(super) fn new(inner: F, sent: Sent, clocks: StreamClocksLayer) -> Self {
        Self {
            inner,
            sent,
            clocks,
            // A limit beyond what an `Instant` can hold is none.
            deadline: clocks
                .total
                .and_then(|total| Instant::now().checked_add(total)),
            timer: Timer::default(),
            is_sent: false,
            is_set: false,
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
            let (clocks, deadline, timer) =
                (*this.clocks, *this.deadline, std::mem::take(this.timer));
            let clocked = |body| ClockedBody::new(body, clocks, deadline, timer);
            return Poll::Ready(answer.map(|answer| answer.map(clocked)).map_err(Into::into));
        }
        let first_byte = this.clocks.first_byte.filter(|_| !*this.is_sent);
        if let Some(limit) = first_byte
            && this.sent.poll(cx).is_ready()
        {
            *this.is_sent = true;
            *this.is_set = true;
            let until = Instant::now().checked_add(limit);
            this.timer
                .set(until.into_iter().chain(*this.deadline).min());
        } else if !*this.is_set {
            *this.is_set = true;
            this.timer.set(*this.deadline);
        }
        ready!(this.timer.poll(cx));
        let total = this.deadline.filter(|deadline| Instant::now() >= *deadline);
        let failure = match (total.and(this.clocks.total), this.clocks.first_byte) {
            (None, Some(after)) => Failure::from(FirstByteTimeout { after }),
            (total, _) => Failure::from(TotalTimeout {
                after: total.unwrap_or_default(),
            }),
        };
        Poll::Ready(Err(failure.into()))
    }
}
