//! The clocks within an answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{IdleTimeout, StreamClocksLayer, TotalTimeout};
use crate::{BoxError, Failure};

pin_project! {
    /// The body of an answer whose frames may not be too long in coming.
    #[derive(Debug)]
    pub struct ClockedBody<B> {
        #[pin]
        inner: B,
        idle: Option<Duration>,
        total: Option<Duration>,
        deadline: Option<Instant>,
        timer: Option<Pin<Box<Sleep>>>,
        // Since when a frame is being waited for; none while the client has the word.
        waiting_since: Option<Instant>,
    }
}

impl<B> ClockedBody<B> {
    pub(super) fn new(
        inner: B,
        clocks: StreamClocksLayer,
        deadline: Option<Instant>,
        timer: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        Self {
            inner,
            idle: clocks.idle,
            total: clocks.total,
            deadline,
            timer,
            waiting_since: None,
        }
    }
}

impl<B> Body for ClockedBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            *this.waiting_since = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.idle.is_none() && this.deadline.is_none() {
            return Poll::Pending;
        }
        let since = *this.waiting_since.get_or_insert_with(Instant::now);
        let idle_until = this.idle.map(|idle| since + idle);
        let Some(due) = [idle_until, *this.deadline].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        // A timer that rings too early is set anew then, not for each frame; one that would
        // ring too late is set at once.
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= due {
                return Poll::Ready(Some(Err(match (*this.total, *this.idle) {
                    (Some(after), _) if *this.deadline == Some(due) => {
                        Failure::from(TotalTimeout { after }).into()
                    }
                    (_, after) => Failure::from(IdleTimeout {
                        after: after.unwrap_or_default(),
                    })
                    .into(),
                })));
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
