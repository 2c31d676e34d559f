//! An answer from the cache, from a shared exchange, or from neither.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::flight::Flight;
use crate::BoxError;

pin_project! {
    /// The body of an answer.
    #[derive(Debug)]
    pub struct CacheBody<B> {
        // With which the cache has nothing to do: most frames pass here.
        #[pin]
        passed: Option<B>,
        own: Option<Own>,
    }
}

/// What the cache gives.
#[derive(Debug)]
enum Own {
    Shared {
        twin: Twin,
        seen: usize,
    },
    Kept {
        frames: Arc<[Bytes]>,
        seen: usize,
        // What is left, if the head told the length.
        left: Option<u64>,
    },
}

/// One of those who share an exchange. Dropped, it leaves the others to it.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) flight: Arc<Flight>,
    pub(super) id: u64,
    /// It began the exchange.
    pub(super) is_first: bool,
}

impl Twin {
    pub(super) fn of(flight: Arc<Flight>, is_first: bool) -> Self {
        let id = flight.id();
        Self {
            flight,
            id,
            is_first,
        }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.flight.leave(self.id);
    }
}

impl Own {
    // Out of the way of the frames that pass.
    #[inline(never)]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Shared { twin, seen } => {
                let frame = ready!(twin.flight.poll_frame(twin.id, *seen, cx));
                *seen += 1;
                Poll::Ready(frame.map(|frame| frame.map(Frame::data).map_err(Into::into)))
            }
            Self::Kept { frames, seen, left } => {
                let frame = frames.get(*seen).cloned();
                *seen += 1;
                if let (Some(left), Some(frame)) = (left, &frame) {
                    *left = left.saturating_sub(frame.len() as u64);
                }
                Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
            }
        }
    }
}

impl<B> CacheBody<B> {
    pub(super) fn passed(inner: B) -> Self {
        Self {
            passed: Some(inner),
            own: None,
        }
    }

    pub(super) fn shared(twin: Twin) -> Self {
        Self::own(Own::Shared { twin, seen: 0 })
    }

    pub(super) fn kept(frames: Arc<[Bytes]>, has_length: bool) -> Self {
        let len = frames.iter().map(|frame| frame.len() as u64).sum();
        let left = has_length.then_some(len);
        Self::own(Own::Kept {
            frames,
            seen: 0,
            left,
        })
    }

    fn own(own: Own) -> Self {
        Self {
            passed: None,
            own: Some(own),
        }
    }
}

impl<B> Body for CacheBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let Some(passed) = this.passed.as_pin_mut() else {
            let own = this.own.as_mut();
            return own.map_or(Poll::Ready(None), |own| own.poll_frame(cx));
        };
        passed.poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        match (&self.passed, &self.own) {
            (Some(passed), _) => passed.is_end_stream(),
            (None, Some(Own::Shared { twin, seen })) => twin.flight.is_at_end(*seen),
            (None, Some(Own::Kept { frames, seen, .. })) => *seen >= frames.len(),
            (None, None) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.passed, &self.own) {
            (Some(passed), _) => passed.size_hint(),
            (
                None,
                Some(Own::Kept {
                    left: Some(left), ..
                }),
            ) => SizeHint::with_exact(*left),
            // A stream that is told as one must not become an answer of known length.
            (None, _) => SizeHint::default(),
        }
    }
}
