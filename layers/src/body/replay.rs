//! The request body behind the body limit layer.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use smallvec::SmallVec;

use super::{BodyReadTimeout, Buffered, ClientBodyFailed, Replay, Reservation};
use crate::{BoxError, Deadline, Failure};

/// A request body that is buffered and can be sent again, or one that streams.
///
/// A buffered body is a list of segments as they were received; they are never joined. Its replays
/// share them. The reserved memory is released with the last replay. Trailers of a buffered body
/// are dropped: no LLM server reads them.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use llamatower_layers::{Replay, body::ReplayBody};
///
/// let body = ReplayBody::<Empty<Bytes>>::buffered(["{\"a\":".into(), "1}".into()], None);
/// assert_eq!(body.len(), Some(7));
/// assert!(body.replay().is_some());
///
/// let body = body.splice(1..1, "\"b\":2,".into()).expect("within a buffered body");
/// assert_eq!(body.segments().expect("buffered").concat(), br#"{"b":2,"a":1}"#);
/// ```
#[must_use]
pub struct ReplayBody<B> {
    kind: Kind<B>,
}

enum Kind<B> {
    // `None` is the empty body, without an allocation.
    Buffered {
        buffer: Option<Arc<Buffer>>,
        next: usize,
        left: u64,
    },
    // Boxed: streaming bodies are rare, and a request is moved often.
    Streaming {
        streaming: Pin<Box<Streaming<B>>>,
    },
}

pin_project! {
    struct Streaming<B> {
        #[pin]
        body: B,
        read_timeout: Option<Duration>,
        pause: Deadline,
    }
}

/// Most bodies have one segment, which needs no allocated list.
pub(crate) type Segments = SmallVec<[Bytes; 1]>;

struct Buffer {
    segments: Segments,
    len: u64,
    // The memory of the segments; that of a spliced body is its origin's.
    reservation: Option<Reservation>,
    origin: Option<Arc<Buffer>>,
}

impl Buffer {
    fn reservation(&self) -> Option<&Reservation> {
        let of_origin = || self.origin.as_ref()?.reservation();
        self.reservation.as_ref().or_else(of_origin)
    }
}

impl<B> ReplayBody<B> {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self::whole(None)
    }

    /// A buffered body, with its reserved memory.
    pub fn buffered(
        segments: impl IntoIterator<Item = Bytes>,
        reservation: Option<Reservation>,
    ) -> Self {
        let mut segments: Segments = segments.into_iter().collect();
        segments.retain(|segment| !segment.is_empty());
        if segments.is_empty() {
            return Self::empty();
        }
        Self::whole(Some(Buffer {
            len: segments.iter().map(|segment| segment.len() as u64).sum(),
            segments,
            reservation,
            origin: None,
        }))
    }

    /// A body that is forwarded as it arrives.
    pub fn streaming(body: B) -> Self {
        let streaming = Box::pin(Streaming {
            body,
            read_timeout: None,
            pause: Deadline::default(),
        });
        Self {
            kind: Kind::Streaming { streaming },
        }
    }

    /// Fails a streaming body with [`BodyReadTimeout`](super::BodyReadTimeout) after a pause of
    /// `timeout`. Only pauses of the sender count, not those of the reader.
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        if let Kind::Streaming { streaming } = &mut self.kind {
            *streaming.as_mut().project().read_timeout = Some(timeout);
        }
        self
    }

    fn whole(buffer: Option<Buffer>) -> Self {
        Self::from_start(buffer.map(Arc::new))
    }

    fn from_start(buffer: Option<Arc<Buffer>>) -> Self {
        let left = buffer.as_ref().map_or(0, |buffer| buffer.len);
        Self {
            kind: Kind::Buffered {
                buffer,
                next: 0,
                left,
            },
        }
    }

    /// The segments of the whole body, in order, none of them empty; `None` if it streams.
    pub fn segments(&self) -> Option<&[Bytes]> {
        match &self.kind {
            Kind::Buffered { buffer, .. } => {
                Some(buffer.as_ref().map_or(&[], |buffer| &buffer.segments[..]))
            }
            Kind::Streaming { .. } => None,
        }
    }

    /// The length of the whole body in bytes, also after a part was read; `None` if it streams.
    #[expect(
        clippy::len_without_is_empty,
        reason = "whether a stream is empty is not known"
    )]
    pub fn len(&self) -> Option<u64> {
        match &self.kind {
            Kind::Buffered { buffer, .. } => Some(buffer.as_ref().map_or(0, |buffer| buffer.len)),
            Kind::Streaming { .. } => None,
        }
    }

    /// The body from its beginning, with the bytes of `range` replaced by `insert`. The other bytes
    /// and the reservation are shared with this body. `None` if the body streams or the range is
    /// outside of it.
    pub fn splice(&self, range: Range<u64>, insert: Bytes) -> Option<Self> {
        let len = self.len()?;
        if range.start > range.end || range.end > len {
            return None;
        }
        let old = self.segments()?;
        let mut segments = Segments::with_capacity(old.len() + 2);
        segments.extend(within(old, 0..range.start));
        segments.extend((!insert.is_empty()).then_some(insert));
        segments.extend(within(old, range.end..len));
        let Kind::Buffered { buffer, .. } = &self.kind else {
            return None;
        };
        if segments.is_empty() {
            return Some(Self::empty());
        }
        Some(Self::whole(Some(Buffer {
            len: segments.iter().map(|segment| segment.len() as u64).sum(),
            segments,
            reservation: None,
            origin: buffer.clone(),
        })))
    }
}

/// The non-empty parts of `segments` within `range`.
fn within(segments: &[Bytes], range: Range<u64>) -> impl Iterator<Item = Bytes> {
    let mut at = 0;
    segments.iter().filter_map(move |segment| {
        let begin = at;
        at += segment.len() as u64;
        let from = range.start.clamp(begin, at) - begin;
        let to = range.end.clamp(begin, at) - begin;
        // Both are at most the segment's length, which is a usize.
        (from < to).then(|| segment.slice(from as usize..to as usize))
    })
}

impl<B> Buffered for ReplayBody<B> {
    fn segments(&self) -> Option<&[Bytes]> {
        self.segments()
    }

    fn replaced(&self, bytes: Bytes) -> Option<Self> {
        let held = match &self.kind {
            Kind::Buffered { buffer, .. } => {
                buffer.as_ref().and_then(|buffer| buffer.reservation())
            }
            Kind::Streaming { .. } => None,
        };
        let reservation = match held {
            Some(held) => Some(held.try_reserve(bytes.len() as u64)?),
            None => None,
        };
        Some(Self::buffered([bytes], reservation))
    }
}

impl<B> Replay for ReplayBody<B> {
    fn replay(&self) -> Option<Self> {
        match &self.kind {
            Kind::Buffered { buffer, .. } => Some(Self::from_start(buffer.clone())),
            Kind::Streaming { .. } => None,
        }
    }
}

impl<B> From<Bytes> for ReplayBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self::buffered([bytes], None)
    }
}

impl<B> Default for ReplayBody<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the bytes: they are a user's prompt.
        f.debug_struct("ReplayBody")
            .field("len", &self.len())
            .field("segments", &self.segments().map(<[_]>::len))
            .finish()
    }
}

impl<B> Streaming<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        match (this.body.poll_frame(cx), *this.read_timeout) {
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(limit)) => {
                let timeout = ready!(BodyReadTimeout::poll(this.pause, limit, None, cx));
                Poll::Ready(Some(Err(Failure::from(timeout).into())))
            }
            (Poll::Ready(frame), _) => {
                this.pause.disarm();
                Poll::Ready(frame.map(|frame| frame.map_err(ClientBodyFailed::mark)))
            }
        }
    }
}

impl<B> Body for ReplayBody<B>
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
        match &mut self.get_mut().kind {
            Kind::Buffered { buffer, next, left } => {
                let segment = buffer
                    .as_ref()
                    .and_then(|buffer| buffer.segments.get(*next));
                Poll::Ready(segment.map(|segment| {
                    *next += 1;
                    *left -= segment.len() as u64;
                    Ok(Frame::data(segment.clone()))
                }))
            }
            Kind::Streaming { streaming } => streaming.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Buffered { left, .. } => *left == 0,
            Kind::Streaming { streaming } => streaming.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Buffered { left, .. } => SizeHint::with_exact(*left),
            Kind::Streaming { streaming } => streaming.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::{pending, poll_fn};

    use http::StatusCode;
    use http_body_util::{BodyExt, Empty, Full, StreamBody};

    use super::*;
    use crate::body::MemoryBudget;

    type Buffered = ReplayBody<Empty<Bytes>>;

    fn three() -> Buffered {
        ReplayBody::buffered(["ab".into(), "".into(), "c".into(), "def".into()], None)
    }

    fn text<B>(body: &ReplayBody<B>) -> String {
        String::from_utf8(body.segments().unwrap().concat()).unwrap()
    }

    #[tokio::test]
    async fn frames_keep_their_segments_and_the_size_hint_stays_exact() {
        let mut body = three();
        for (left, expected) in [(6, "ab"), (4, "c"), (3, "def")] {
            assert_eq!(body.size_hint().exact(), Some(left));
            assert!(!body.is_end_stream());
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), expected);
        }
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_replay_starts_at_the_beginning_and_shares_the_bytes() {
        let mut body = three();
        let _ = body.frame().await;
        let again = body.replay().unwrap();
        let (old, new) = (body.segments().unwrap(), again.segments().unwrap());
        assert_eq!(old[0].as_ptr(), new[0].as_ptr());
        assert_eq!(again.collect().await.unwrap().to_bytes(), "abcdef");
    }

    #[test]
    fn a_body_in_place_of_another_takes_its_memory_from_the_same_budget() {
        use super::super::Buffered as _;
        let budget = MemoryBudget::new(20);
        let body = Buffered::buffered(["abcdef".into()], budget.try_reserve(6));
        let spliced = body.splice(0..1, "x".into()).unwrap();
        assert!(spliced.replaced("0123456789abcde".into()).is_none());
        let replaced = spliced.replaced("0123456789".into()).unwrap();
        assert_eq!(
            (text(&replaced), budget.available()),
            ("0123456789".into(), 4)
        );
        drop((body, spliced));
        assert_eq!(budget.available(), 10, "the other body is held no longer");
        let again = replaced.replaced("0".into()).unwrap();
        drop((replaced, again));
        assert_eq!(budget.available(), 20);
        assert!(three().replaced("0123456789".into()).is_some(), "no budget");
    }

    #[test]
    fn memory_returns_with_the_last_copy() {
        let budget = MemoryBudget::new(10);
        let body = Buffered::buffered(["abcdef".into()], budget.try_reserve(6));
        let spliced = body.splice(0..1, "x".into()).unwrap();
        let replayed = spliced.replay().unwrap();
        drop((body, spliced));
        assert_eq!(budget.available(), 4);
        drop(replayed);
        assert_eq!(budget.available(), 10);
    }

    #[test]
    fn an_empty_body_holds_no_memory() {
        let budget = MemoryBudget::new(10);
        let body = Buffered::buffered([Bytes::new()], budget.try_reserve(6));
        assert_eq!(budget.available(), 10);
        assert!(body.is_end_stream());
        assert_eq!(body.len(), Some(0));
        assert_eq!(body.segments(), Some(&[][..]));
        assert_eq!(text(&body.splice(0..0, "x".into()).unwrap()), "x");
    }

    #[test]
    fn a_splice_works_within_the_body_and_not_beyond() {
        let whole = "abcdef";
        for start in 0..=6 {
            for end in start..=6 {
                let mut expected = whole.to_owned();
                expected.replace_range(start as usize..end as usize, "--");
                let body = three().splice(start..end, "--".into()).unwrap();
                assert_eq!(text(&body), expected);
                assert_eq!(body.len(), Some(expected.len() as u64));
                assert!(body.segments().unwrap().iter().all(|s| !s.is_empty()));
            }
        }
        assert_eq!(three().splice(0..6, Bytes::new()).unwrap().len(), Some(0));
        assert!(three().splice(5..7, Bytes::new()).is_none());
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = 4..3;
        assert!(three().splice(reversed, Bytes::new()).is_none());
    }

    #[tokio::test]
    async fn a_stream_passes_through_and_cannot_be_replayed() {
        let body = ReplayBody::streaming(Full::new(Bytes::from("abc")));
        assert!(body.replay().is_none());
        assert!(body.splice(0..0, Bytes::new()).is_none());
        assert_eq!((body.len(), body.segments()), (None, None));
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn an_error_of_a_request_stream_is_the_clients_fault() {
        let frames = futures_util::stream::iter([Err::<Frame<Bytes>, _>("reset by peer")]);
        let mut body = ReplayBody::streaming(StreamBody::new(frames));
        let error = body.frame().await.unwrap().unwrap_err();
        let failure = Failure::find(&*error).unwrap();
        assert_eq!(failure.side(), crate::Side::Client);
        let cause = failure.caused_by::<ClientBodyFailed>().unwrap();
        assert_eq!(
            std::error::Error::source(cause).unwrap().to_string(),
            "reset by peer"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_sender_ends_a_stream_and_a_pause_of_the_reader_does_not() {
        let frames = futures_util::stream::unfold(0, async |n| {
            match n {
                0 | 1 => tokio::time::sleep(Duration::from_secs(20)).await,
                _ => pending().await,
            }
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from("x"))), n + 1))
        });
        let streaming = ReplayBody::streaming(StreamBody::new(frames));
        let mut body = Box::pin(streaming.with_read_timeout(Duration::from_secs(30)));
        for _ in 0..2 {
            assert!(body.frame().await.unwrap().is_ok());
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let began = tokio::time::Instant::now();
        let error = poll_fn(|cx| body.as_mut().poll_frame(cx))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(began.elapsed().as_secs(), 30);
        let failure = Failure::find(&*error).unwrap();
        assert_eq!(failure.status(), StatusCode::REQUEST_TIMEOUT);
        assert!(failure.caused_by::<BodyReadTimeout>().is_some());
    }
}
