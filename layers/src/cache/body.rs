//! The body of a response from the cache, from a shared exchange, or from the service directly.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::flight::Flight;
use super::reporters::{Place, Reporters};
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
        // The cache does not use this response. Most frames pass here.
        PassThrough {
            #[pin]
            inner: B,
        },
        Own { own: Own },
    }
}

/// An answer that the cache provides.
#[derive(Debug)]
enum Own {
    Shared {
        participant: Participant,
        seen: usize,
    },
    Cached {
        frames: Arc<[Bytes]>,
        seen: usize,
        // The remaining bytes, if the head declared a length.
        left: Option<u64>,
    },
}

/// One request of a shared exchange. Dropping it does not end the exchange for the others.
#[derive(Debug)]
pub(super) struct Participant {
    pub(super) flight: Arc<Flight>,
    pub(super) id: u64,
}

impl Participant {
    /// The request that began the exchange.
    pub(super) fn leader(flight: Arc<Flight>) -> Self {
        let id = Reporters::LEADER;
        Self { flight, id }
    }

    pub(super) fn follower(flight: Arc<Flight>, place: Place) -> Self {
        let id = flight.reporters.join(place);
        Self { flight, id }
    }

    /// Whether this request reports the usage of the response.
    pub(super) fn reports(&self) -> bool {
        self.flight.reporters.is_first(self.id)
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.flight.leave(self.id);
    }
}

impl Own {
    // Not inlined, so that frames that only pass through cost one branch.
    #[inline(never)]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Shared { participant, seen } => {
                let frame = ready!(participant.flight.poll_frame(participant.id, *seen, cx));
                *seen += 1;
                Poll::Ready(frame.map(|frame| frame.map(Frame::data).map_err(Into::into)))
            }
            Self::Cached { frames, seen, left } => {
                let frame = frames.get(*seen).cloned();
                *seen += 1;
                if let (Some(left), Some(frame)) = (left, &frame) {
                    *left = left.saturating_sub(frame.len() as u64);
                }
                Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
            }
        }
    }

    fn is_at_end(&self) -> bool {
        match self {
            Self::Shared { participant, seen } => participant.flight.is_at_end(*seen),
            Self::Cached { frames, seen, .. } => *seen >= frames.len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Cached {
                left: Some(left), ..
            } => SizeHint::with_exact(*left),
            // A stream without a declared length must not get one.
            Self::Cached { left: None, .. } | Self::Shared { .. } => SizeHint::default(),
        }
    }
}

/// A body without frames.
impl<B> Default for CacheBody<B> {
    fn default() -> Self {
        Self::cached(Arc::default(), true)
    }
}

impl<B> CacheBody<B> {
    pub(super) fn pass_through(inner: B) -> Self {
        Self {
            kind: Kind::PassThrough { inner },
        }
    }

    pub(super) fn shared(participant: Participant) -> Self {
        Self::own(Own::Shared {
            participant,
            seen: 0,
        })
    }

    pub(super) fn cached(frames: Arc<[Bytes]>, has_length: bool) -> Self {
        let len = frames.iter().map(|frame| frame.len() as u64).sum();
        let left = has_length.then_some(len);
        Self::own(Own::Cached {
            frames,
            seen: 0,
            left,
        })
    }

    fn own(own: Own) -> Self {
        Self {
            kind: Kind::Own { own },
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
            KindProjection::PassThrough { inner } => inner.poll_frame(cx).map_err(Into::into),
            KindProjection::Own { own } => own.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::PassThrough { inner } => inner.is_end_stream(),
            Kind::Own { own } => own.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::PassThrough { inner } => inner.size_hint(),
            Kind::Own { own } => own.size_hint(),
        }
    }
}
