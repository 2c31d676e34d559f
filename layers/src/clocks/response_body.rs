//! The time-outs within a response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::layer::{LimitNames, Limits};
use super::{IdleTimeout, TotalTimeout};
use crate::{BoxError, Deadline, Failure};

pin_project! {
    /// The body of a response with time-outs for its frames.
    #[derive(Debug)]
    pub struct ClockedBody<B> {
        // `None` once a time-out has fired; the connection to the backend is then closed.
        #[pin]
        inner: Option<B>,
        clocks: Clocks,
    }
}

#[derive(Debug)]
struct Clocks {
    idle: Option<Duration>,
    // Boxed, because bodies are moved often and few have a total limit.
    total: Option<Box<(Instant, Duration)>>,
    deadline: Deadline,
    names: &'static LimitNames,
    /// No frame has arrived since the deadline was set.
    is_waiting: bool,
}

impl<B> ClockedBody<B> {
    pub(super) fn new(
        inner: B,
        limits: Limits,
        total: Option<Instant>,
        deadline: Deadline,
    ) -> Self {
        Self {
            inner: Some(inner),
            clocks: Clocks {
                idle: limits.idle,
                total: total.zip(limits.total).map(Box::new),
                deadline,
                names: limits.names,
                is_waiting: false,
            },
        }
    }
}

impl Clocks {
    /// Called while no frame is ready; returns the error of a time-out that has fired.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        if !std::mem::replace(&mut self.is_waiting, true) {
            // A limit beyond the range of `Instant` counts as none.
            let idle = self.idle.and_then(|idle| Instant::now().checked_add(idle));
            let total = self.total.as_ref().map(|total| total.0);
            self.deadline.arm(idle.into_iter().chain(total).min());
        }
        ready!(self.deadline.poll(cx));
        let total = self.total.as_deref().copied();
        let total = total.filter(|(at, _)| Instant::now() >= *at);
        Poll::Ready(match (total, self.idle) {
            (None, Some(after)) => Failure::from(IdleTimeout {
                after,
                limit: self.names.idle,
            }),
            (total, _) => Failure::from(TotalTimeout {
                after: total.map_or(Duration::ZERO, |(_, after)| after),
                limit: self.names.total,
            }),
        })
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
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = inner.poll_frame(cx) {
            this.clocks.is_waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        this.clocks.poll(cx).map(|failure| {
            this.inner.set(None);
            Some(Err(failure.into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
