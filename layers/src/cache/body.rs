//! The body of an answer from the cache, from a shared exchange, or from the service directly.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::flight::Flight;
use crate::BoxError;

pin_project! {
    /// The body of [`CacheService`](super::CacheService)'s answers.
    #[derive(Debug)]
    pub struct CacheBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<B> {
        // The cache does not use this answer.
        Passed {
            #[pin]
            inner: B,
        },
        Shared { twin: Twin, seen: usize },
        Kept {
            frames: Arc<[Bytes]>,
            seen: usize,
            // The remaining bytes, if the head declared a length.
            left: Option<u64>,
        },
    }
}

/// One request of a shared exchange. Dropping it does not end the exchange for the others.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) flight: Arc<Flight>,
    pub(super) id: u64,
    /// This request started the exchange.
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

impl<B> CacheBody<B> {
    pub(super) fn passed(inner: B) -> Self {
        Self {
            kind: Kind::Passed { inner },
        }
    }

    pub(super) fn shared(twin: Twin) -> Self {
        Self {
            kind: Kind::Shared { twin, seen: 0 },
        }
    }

    pub(super) fn kept(frames: Arc<[Bytes]>, has_length: bool) -> Self {
        let len = frames.iter().map(|frame| frame.len() as u64).sum();
        let left = has_length.then_some(len);
        Self {
            kind: Kind::Kept {
                frames,
                seen: 0,
                left,
            },
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
        match self.project().kind.project() {
            KindProjection::Passed { inner } => inner.poll_frame(cx).map_err(Into::into),
            KindProjection::Shared { twin, seen } => {
                let frame = ready!(twin.flight.poll_frame(twin.id, *seen, cx));
                *seen += 1;
                Poll::Ready(frame.map(|frame| frame.map(Frame::data).map_err(Into::into)))
            }
            KindProjection::Kept { frames, seen, left } => {
                let frame = frames.get(*seen).cloned();
                *seen += 1;
                if let (Some(left), Some(frame)) = (left, &frame) {
                    *left = left.saturating_sub(frame.len() as u64);
                }
                Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passed { inner } => inner.is_end_stream(),
            Kind::Shared { twin, seen } => twin.flight.is_at_end(*seen),
            Kind::Kept { frames, seen, .. } => *seen >= frames.len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passed { inner } => inner.size_hint(),
            // A stream without a declared length must not get one.
            Kind::Kept { left: None, .. } | Kind::Shared { .. } => SizeHint::default(),
            Kind::Kept {
                left: Some(left), ..
            } => SizeHint::with_exact(*left),
        }
    }
}
