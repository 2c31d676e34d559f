//! The body of a response, until its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::report::{Reporter, WithRequest};
use super::{BrokenStream, ShuttingDown};
use crate::classify::classify;
use crate::dialect::ResponseSoFar;
use crate::frames::{EndRule, Framing, Opening, StreamEnd, Tail};
use crate::{BoxError, Deadline, Dialect, Failure};

/// Pause between the error frame and the unclean end. hyper flushes nothing after an error, and the
/// JDK's client discards unread data when its connection breaks.
const PAUSE: Duration = Duration::from_millis(500);

pin_project! {
    /// The body of a response: the inner one, with an error frame if it breaks where a frame is
    /// possible, or the text of an error.
    #[derive(Debug)]
    pub struct RescueBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjected]
    #[derive(Debug)]
    enum Kind<B> {
        Inner {
            #[pin]
            inner: B,
            with_request: Pin<Box<WithRequest>>,
        },
        Whole { bytes: Bytes },
        // Ends with an error after a pause.
        Breaking {
            error: Option<BoxError>,
            pause: Deadline,
        },
        Ended,
    }
}

/// The state of a stream of items.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) framing: Framing,
    tail: Tail,
    /// Kept if the error frame repeats a part of it.
    opening: Option<Opening>,
    rule: EndRule,
    /// The inner body has ended, and nothing must be added.
    is_settled: bool,
}

/// A body without frames.
impl<B> Default for RescueBody<B> {
    fn default() -> Self {
        let kind = Kind::Ended;
        Self { kind }
    }
}

impl<B> RescueBody<B> {
    pub(super) fn whole(bytes: Bytes) -> Self {
        let kind = match bytes.is_empty() {
            true => Kind::Ended,
            false => Kind::Whole { bytes },
        };
        Self { kind }
    }
}

impl<B> RescueBody<B> {
    pub(super) fn new(inner: B, with_request: Pin<Box<WithRequest>>) -> Self {
        let kind = Kind::Inner {
            inner,
            with_request,
        };
        Self { kind }
    }
}

impl Watch {
    /// `None` for a response that is not a stream of separable items.
    pub(super) fn of<B: Body>(answer: &Response<B>, reporter: &Reporter) -> Option<Self> {
        let body = answer.body();
        let is_open = answer.status() == StatusCode::OK
            && !reporter.is_head
            && body.size_hint().exact().is_none()
            && !body.is_end_stream()
            && !answer.headers().contains_key(CONTENT_LENGTH);
        let framing = is_open.then(|| Framing::of(answer.headers())).flatten()?;
        Some(Self {
            framing,
            tail: Tail::new(framing),
            opening: (reporter.dialect == Dialect::Responses).then(Opening::default),
            rule: EndRule::of(framing, reporter.dialect, reporter.operation),
            is_settled: false,
        })
    }

    /// Kept out of the way of the streams that have no opening to keep.
    #[cold]
    fn keep_opening(&mut self, data: &Bytes) {
        if let Some(opening) = &mut self.opening {
            opening.push(data, &self.tail);
        }
    }

    /// The text before an error frame; `None` if no frame is possible.
    fn before_frame(&self) -> Option<&'static str> {
        match self.framing {
            _ if self.tail.is_at_boundary() => Some(""),
            // A client either fails on the incomplete line, or skips it and reads the error line.
            Framing::Ndjson => Some("\n"),
            // Clients of event streams notice an unclean end and report it with their own error. On
            // an incomplete event they would report a parse error.
            Framing::Sse => None,
        }
    }

    /// The part of the stream that the error frame repeats.
    pub(super) fn so_far(&self) -> ResponseSoFar {
        match &self.opening {
            Some(opening) => ResponseSoFar::new(&opening.data(), self.tail.next_sequence_number()),
            None => ResponseSoFar::default(),
        }
    }

    /// The stream has ended cleanly. Returns whether it is complete.
    fn settle(&mut self, reporter: &Reporter) -> bool {
        if self.is_settled {
            return true;
        }
        match self.tail.end(self.rule) {
            StreamEnd::Unfinished => return false,
            StreamEnd::Error => reporter.backend_sent_error(),
            StreamEnd::Complete | StreamEnd::Unknown => {}
        }
        self.is_settled = true;
        true
    }
}

/// Marked as cold, because most streams do not break.
#[cold]
fn poll_pause(pause: &mut Deadline, cx: &mut Context<'_>) -> Poll<()> {
    pause.poll(cx)
}

/// What the client receives instead of an error; nothing if the stream was complete.
#[derive(Default)]
struct FinalFrames {
    frame: Option<Bytes>,
    /// Makes the end unclean.
    error: Option<BoxError>,
}

impl FinalFrames {
    #[cold]
    fn of(watch: Option<&Watch>, reporter: &Reporter, error: BoxError) -> Self {
        let last = watch.map(|watch| (watch, watch.tail.end(watch.rule), watch.before_frame()));
        match last {
            Some((watch, StreamEnd::Unfinished | StreamEnd::Unknown, Some(before))) => {
                let frame = reporter.frame(&error, watch);
                let frame = [before.as_bytes(), &frame].concat();
                let broken = BrokenStream { source: error };
                Self {
                    frame: Some(frame.into()),
                    error: (!reporter.ends_cleanly()).then(|| broken.into()),
                }
            }
            Some((watch, end @ (StreamEnd::Complete | StreamEnd::Error), _))
                if watch.tail.is_at_boundary() =>
            {
                if end == StreamEnd::Error {
                    reporter.backend_sent_error();
                }
                Self::default()
            }
            _ => {
                reporter.broke(&error);
                Self {
                    frame: None,
                    error: Some(error),
                }
            }
        }
    }
}

impl<B> Body for RescueBody<B>
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
        let mut kind = self.project().kind;
        let (mut inner, with_request) = match kind.as_mut().project() {
            KindProjected::Inner {
                inner,
                with_request,
            } => (inner, with_request),
            KindProjected::Whole { bytes } => {
                let frame = Frame::data(std::mem::take(bytes));
                kind.set(Kind::Ended);
                return Poll::Ready(Some(Ok(frame)));
            }
            KindProjected::Breaking { error, pause } => {
                ready!(poll_pause(pause, cx));
                let error = error.take();
                kind.set(Kind::Ended);
                return Poll::Ready(error.map(Err));
            }
            KindProjected::Ended => return Poll::Ready(None),
        };
        let error = match inner.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let (watch, reporter) = with_request.as_mut().watched();
                let Some(watch) = watch else {
                    with_request.as_mut().note_frame(&frame);
                    return Poll::Ready(Some(Ok(frame)));
                };
                if let Some(data) = frame.data_ref() {
                    watch.tail.push(data);
                    if watch.opening.is_some() {
                        watch.keep_opening(data);
                    }
                }
                let is_last = frame.is_trailers() || inner.is_end_stream();
                let is_short = is_last && !watch.settle(reporter);
                if frame.is_data() || !is_short {
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(reporter.unfinished())
            }
            Poll::Ready(None) => {
                if let Some(text) = with_request.as_mut().missing_text() {
                    kind.set(Kind::Ended);
                    return Poll::Ready(Some(Ok(Frame::data(text))));
                }
                let (watch, reporter) = with_request.as_mut().watched();
                let is_short = watch.as_mut().is_some_and(|watch| !watch.settle(reporter));
                is_short.then(|| reporter.unfinished())
            }
            Poll::Ready(Some(Err(error))) => Some(classify(error)),
            Poll::Pending => {
                ready!(with_request.as_mut().poll_cutoff(cx));
                Some(Failure::from(ShuttingDown).into())
            }
        };
        let (watch, reporter) = with_request.as_mut().watched();
        let last = error.map(|error| FinalFrames::of(watch.as_ref(), reporter, error));
        let FinalFrames { frame, error } = last.unwrap_or_default();
        // The connection to the backend is closed now, not when the client has read its last frame.
        let is_clean = error.is_none();
        kind.set(match is_clean {
            true => Kind::Ended,
            false => Kind::Breaking {
                error,
                pause: Deadline::new(Instant::now() + PAUSE),
            },
        });
        if frame.is_none() && !is_clean {
            // Continue with the pause.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner {
                inner,
                with_request,
            } => {
                let watch = with_request.watch.as_ref();
                with_request.lacks_text.is_none()
                    && watch.is_none_or(|watch| watch.is_settled)
                    && inner.is_end_stream()
            }
            Kind::Whole { .. } | Kind::Breaking { .. } => false,
            Kind::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner {
                inner,
                with_request,
            } if with_request.watch.is_some() => {
                let mut hint = SizeHint::new();
                hint.set_lower(inner.size_hint().lower());
                hint
            }
            Kind::Inner { inner, .. } => inner.size_hint(),
            Kind::Whole { bytes } => SizeHint::with_exact(bytes.len() as u64),
            Kind::Breaking { .. } => SizeHint::default(),
            Kind::Ended => SizeHint::with_exact(0),
        }
    }
}
