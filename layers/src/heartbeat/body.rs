//! Signs of life, then the answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{RefusedLate, Waiting};
use crate::frames::Framing;
use crate::{BoxError, Deadline, Failure, Record};

/// How much of a refusal is read, as it is to be told in one line.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;

pin_project! {
    /// The body of an answer: the inner one, after signs of life if it is late.
    #[derive(Debug)]
    pub struct HeartbeatBody<F, B> {
        // `None` until there is an answer.
        #[pin]
        inner: Option<B>,
        // In a box, as bodies are moved often, and few answers are late.
        early: Option<Box<Early<F>>>,
    }
}

/// What is before the answer passes.
#[derive(Debug)]
enum Early<F> {
    Waiting {
        watched: Watched<F>,
        sign: Option<Bytes>,
    },
    /// The inner body is that of an answer that cannot be passed on any more.
    Refused { status: StatusCode, text: Vec<u8> },
}

/// A service that has been asked, and when the next sign of life is due.
#[derive(Debug)]
pub(super) struct Watched<F> {
    asked: Pin<Box<F>>,
    every: Duration,
    due: Deadline,
    waiting: Waiting,
    record: Option<Record>,
}

impl<F> Watched<F> {
    pub(super) fn new(asked: F, every: Duration, waiting: Waiting, record: Option<Record>) -> Self {
        let mut due = Deadline::default();
        due.arm_after(every);
        Self {
            asked: Box::pin(asked),
            every,
            due,
            waiting,
            record,
        }
    }

    /// The sign that is due.
    pub(super) fn poll_sign(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        ready!(self.due.poll(cx));
        self.due.arm_after(self.every);
        let text = self.waiting.text();
        let text = text.as_deref().unwrap_or("waiting for the answer");
        Poll::Ready(format!(": {}\n\n", text.replace(['\r', '\n'], " ")).into())
    }
}

impl<F: Future> Watched<F> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.asked.as_mut().poll(cx)
    }

    /// The answer has come: the sign was not its first byte.
    fn note_first_byte(&self) {
        if let Some(record) = &self.record {
            record.update(|outcome| {
                outcome.time_to_first_byte = Some(Instant::now() - outcome.started);
            });
        }
    }
}

impl<F, B> HeartbeatBody<F, B> {
    pub(super) fn passed(inner: B) -> Self {
        Self {
            inner: Some(inner),
            early: None,
        }
    }

    pub(super) fn new(watched: Watched<F>, sign: Bytes) -> Self {
        let sign = Some(sign);
        Self {
            inner: None,
            early: Some(Box::new(Early::Waiting { watched, sign })),
        }
    }
}

fn is_event_stream<B>(answer: &Response<B>) -> bool {
    answer.status() == StatusCode::OK && Framing::of(answer.headers()) == Some(Framing::Sse)
}

type NextFrame = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

// Kept out of the way of each frame that passes, and so is each second call of the inner body, which would be
// one more that is not inlined.
impl<F, B, E> HeartbeatBody<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    /// What there is before the answer; nothing if that has just come.
    #[cold]
    fn poll_early(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Option<NextFrame> {
        let mut this = self.project();
        let Some(Early::Waiting { watched, sign }) = this.early.as_deref_mut() else {
            return Some(Poll::Ready(None));
        };
        if let Some(sign) = sign.take() {
            return Some(Poll::Ready(Some(Ok(Frame::data(sign)))));
        }
        match watched.poll(cx) {
            Poll::Ready(Ok(answer)) => {
                watched.note_first_byte();
                let refused = (!is_event_stream(&answer)).then(|| Early::Refused {
                    status: answer.status(),
                    text: Vec::new(),
                });
                *this.early = refused.map(Box::new);
                this.inner.set(Some(answer.into_body()));
                None
            }
            Poll::Ready(Err(error)) => {
                *this.early = None;
                Some(Poll::Ready(Some(Err(error.into()))))
            }
            Poll::Pending => {
                let sign = watched.poll_sign(cx);
                Some(sign.map(|sign| Some(Ok(Frame::data(sign)))))
            }
        }
    }

    /// Takes what has come of a refusal; the error, once it is known.
    #[cold]
    fn take_refusal(self: Pin<&mut Self>, frame: NextFrame) -> Option<NextFrame> {
        let mut this = self.project();
        let frame = match frame {
            Poll::Pending => return Some(Poll::Pending),
            Poll::Ready(frame) => frame,
        };
        let Some(Early::Refused { status, text }) = this.early.as_deref_mut() else {
            return Some(Poll::Ready(frame));
        };
        if let Some(Ok(frame)) = frame {
            let data = frame.into_data().unwrap_or_default();
            let room = MAX_REFUSAL_BYTES - text.len();
            text.extend_from_slice(&data[..data.len().min(room)]);
            if text.len() < MAX_REFUSAL_BYTES {
                return None;
            }
        }
        let refused = Failure::from(RefusedLate::of(*status, text));
        *this.early = None;
        this.inner.set(None);
        Some(Poll::Ready(Some(Err(refused.into()))))
    }
}

impl<F, B, E> Body for HeartbeatBody<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let this = self.as_mut().project();
            let next = match this.inner.as_pin_mut() {
                Some(inner) => {
                    let frame = inner.poll_frame(cx).map_err(Into::into);
                    if this.early.is_none() {
                        return frame;
                    }
                    self.as_mut().take_refusal(frame)
                }
                None => self.as_mut().poll_early(cx),
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => self.early.is_none() && inner.is_end_stream(),
            None => self.early.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            _ if self.early.is_some() => SizeHint::default(),
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
