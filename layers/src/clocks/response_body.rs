//! The time-outs within a response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::layer::Limits;
use super::{IdleTimeout, TotalTimeout};
use crate::{BoxError, Deadline, Failure};

pin_project! {
    /// The body of a response with time-outs for its frames.
    #[derive(Debug)]
    pub struct StreamClocksBody<B> {
        // `None` once a time-out has fired; the connection to the backend is then closed.
        #[pin]
        inner: Option<B>,
        clocks: Clocks,
    }
}

#[derive(Debug, Default)]
struct Clocks {
    idle: Option<Duration>,
    idle_name: &'static str,
    // Boxed, because bodies are moved often and few have a total limit.
    total: Option<Box<Total>>,
    deadline: Deadline,
    /// No frame has arrived since the deadline was set.
    is_waiting: bool,
}

#[derive(Clone, Copy, Debug)]
struct Total {
    end: Instant,
    limit: Duration,
    name: &'static str,
}

/// A body without frames.
impl<B> Default for StreamClocksBody<B> {
    fn default() -> Self {
        Self {
            inner: None,
            clocks: Clocks::default(),
        }
    }
}

impl<B> StreamClocksBody<B> {
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
                idle_name: limits.names.idle,
                total: total.zip(limits.total).map(|(end, limit)| {
                    let name = limits.names.total;
                    Box::new(Total { end, limit, name })
                }),
                deadline,
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
            let total = self.total.as_ref().map(|total| total.end);
            self.deadline.arm(idle.into_iter().chain(total).min());
        }
        ready!(self.deadline.poll(cx));
        let total = self.total.as_deref().copied();
        let total = total.filter(|total| Instant::now() >= total.end);
        Poll::Ready(match total {
            None => Failure::from(IdleTimeout {
                after: self.idle.unwrap_or_default(),
                limit: self.idle_name,
            }),
            Some(total) => Failure::from(TotalTimeout {
                after: total.limit,
                limit: total.name,
            }),
        })
    }
}

impl<B> Body for StreamClocksBody<B>
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
