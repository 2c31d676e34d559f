//! Detects when a request has been sent.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::Replay;

/// Resolves when a request's body has been read to its end, or dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent(Option<Arc<Mutex<Waiting>>>);

#[derive(Debug, Default)]
struct Waiting {
    is_sent: bool,
    waker: Option<Waker>,
}

impl Sent {
    /// The signal of a body that still has to be sent; an empty body needs none.
    fn of(body: &impl Body) -> Self {
        Self((!body.is_end_stream()).then(Arc::default))
    }

    /// A signal that is not observed.
    fn unobserved() -> Self {
        Self(None)
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(waiting) = &self.0 else {
            return Poll::Ready(());
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_sent {
            return Poll::Ready(());
        }
        match &mut waiting.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn mark_sent(&mut self) {
        let Some(waiting) = self.0.take() else {
            return;
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_sent = true;
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

pin_project! {
    /// A request's body that signals when it has been sent.
    #[derive(Debug, Default)]
    pub struct StreamClocksRequestBody<B> {
        #[pin]
        inner: B,
        sent: Sent,
    }

    impl<B> PinnedDrop for StreamClocksRequestBody<B> {
        fn drop(this: Pin<&mut Self>) {
            this.project().sent.mark_sent();
        }
    }
}

impl<B: Body> StreamClocksRequestBody<B> {
    /// `is_observed` tells whether the signal is observed.
    pub(super) fn new(inner: B, is_observed: bool) -> (Self, Sent) {
        let sent = match is_observed {
            true => Sent::of(&inner),
            false => Sent::unobserved(),
        };
        let body = Self {
            inner,
            sent: sent.clone(),
        };
        (body, sent)
    }
}

impl<B: Body> Body for StreamClocksRequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let goes_on = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !goes_on || this.inner.is_end_stream() {
            this.sent.mark_sent();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A replayed copy gets its own clock when it is sent.
impl<B: Replay> Replay for StreamClocksRequestBody<B> {
    fn replay(&self) -> Option<Self> {
        Some(Self {
            inner: self.inner.replay()?,
            sent: Sent::unobserved(),
        })
    }
}

/// A layer below the clocks may read the body, and send another one in its place. Dropping the
/// request's own starts the clock of the first byte.
#[cfg(feature = "replay-body")]
impl<B: crate::body::Buffered> crate::body::Buffered for StreamClocksRequestBody<B> {
    fn segments(&self) -> Option<&[bytes::Bytes]> {
        self.inner.segments()
    }

    fn replaced(&self, bytes: bytes::Bytes) -> Option<Self> {
        Some(Self {
            inner: self.inner.replaced(bytes)?,
            sent: Sent::unobserved(),
        })
    }
}
