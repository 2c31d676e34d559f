//! The clocks within an answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::idle::IdleClock;
use super::timer::Timer;
use super::{IdleTimeout, StreamClocksLayer, TotalTimeout};
use crate::{BoxError, Failure};

pin_project! {
    /// The body of an answer whose frames may not be too long in coming.
    #[derive(Debug)]
    pub struct ClockedBody<B> {
        // `None` once a clock has run out: the backend is let go of.
        #[pin]
        inner: Option<B>,
        clocks: Clocks,
    }
}

#[derive(Debug)]
struct Clocks {
    idle: Option<IdleClock>,
    total: Option<(Instant, Duration)>,
    timer: Timer,
    /// Whether the timer is set for these clocks, not for the one before the head.
    is_set: bool,
}

impl<B> ClockedBody<B> {
    pub(super) fn new(
        inner: B,
        clocks: StreamClocksLayer,
        deadline: Option<Instant>,
        timer: Timer,
    ) -> Self {
        Self {
            inner: Some(inner),
            clocks: Clocks {
                idle: clocks.idle.map(IdleClock::new),
                total: deadline.zip(clocks.total),
                timer,
                is_set: false,
            },
        }
    }
}

impl Clocks {
    fn heard(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.heard();
        }
    }

    /// Nothing has come from the backend; which clock has run out.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        if let Some(idle) = &mut self.idle {
            idle.silent();
        }
        if !self.is_set && !self.set() {
            return Poll::Pending;
        }
        while self.timer.poll(cx).is_ready() {
            let now = Instant::now();
            if let Some((deadline, after)) = self.total
                && now >= deadline
            {
                return Poll::Ready(Failure::from(TotalTimeout { after }));
            }
            if let Some(idle) = &mut self.idle
                && idle.rung()
            {
                let after = idle.limit();
                return Poll::Ready(Failure::from(IdleTimeout { after }));
            }
            self.timer.set(self.next_ring(now));
        }
        Poll::Pending
    }

    /// Starts the timer, if there is something to wait for.
    fn set(&mut self) -> bool {
        if self.idle.is_none() && self.total.is_none() {
            return false;
        }
        if let Some(idle) = &mut self.idle {
            idle.started();
        }
        self.timer.set(self.next_ring(Instant::now()));
        self.is_set = true;
        true
    }

    /// `None` if it is beyond what an `Instant` can hold.
    fn next_ring(&self, now: Instant) -> Option<Instant> {
        let tick = self
            .idle
            .as_ref()
            .and_then(|idle| now.checked_add(idle.tick()));
        let deadline = self.total.map(|(deadline, _)| deadline);
        tick.into_iter().chain(deadline).min()
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
            this.clocks.heard();
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
