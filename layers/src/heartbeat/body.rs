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
        // `None` until the answer passes.
        #[pin]
        inner: Option<B>,
        // In a box, as bodies are moved often, and few answers are late.
        early: Option<Box<Early<F, B>>>,
    }
}

/// What is before the answer passes.
#[derive(Debug)]
enum Early<F, B> {
    Waiting {
        watched: Watched<F>,
        sign: Option<Bytes>,
    },
    /// An answer that cannot be passed on any more.
    Refused {
        inner: Pin<Box<B>>,
        status: StatusCode,
        text: Vec<u8>,
    },
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

impl<F, B, E> HeartbeatBody<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// The next frame before the answer passes. Kept out of the way of each frame that does.
    #[cold]
    fn poll_early(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        loop {
            let Some(early) = this.early.as_deref_mut() else {
                return Poll::Ready(None);
            };
            let error = match early {
                Early::Waiting { watched, sign } => {
                    if let Some(sign) = sign.take() {
                        return Poll::Ready(Some(Ok(Frame::data(sign))));
                    }
                    match watched.poll(cx) {
                        Poll::Ready(Ok(answer)) => {
                            watched.note_first_byte();
                            if is_event_stream(&answer) {
                                *this.early = None;
                                this.inner.set(Some(answer.into_body()));
                                let inner = this.inner.as_pin_mut();
                                let next = inner.map(|inner| inner.poll_frame(cx));
                                return next
                                    .map_or(Poll::Ready(None), |next| next.map_err(Into::into));
                            }
                            *early = Early::Refused {
                                status: answer.status(),
                                inner: Box::pin(answer.into_body()),
                                text: Vec::new(),
                            };
                            continue;
                        }
                        Poll::Ready(Err(error)) => error.into(),
                        Poll::Pending => {
                            let sign = ready!(watched.poll_sign(cx));
                            return Poll::Ready(Some(Ok(Frame::data(sign))));
                        }
                    }
                }
                Early::Refused {
                    inner,
                    status,
                    text,
                } => {
                    if let Some(Ok(frame)) = ready!(inner.as_mut().poll_frame(cx)) {
                        let data = frame.into_data().unwrap_or_default();
                        let room = MAX_REFUSAL_BYTES - text.len();
                        text.extend_from_slice(&data[..data.len().min(room)]);
                        if text.len() < MAX_REFUSAL_BYTES {
                            continue;
                        }
                    }
                    Failure::from(RefusedLate::of(*status, text)).into()
                }
            };
            *this.early = None;
            return Poll::Ready(Some(Err(error)));
        }
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
        let Some(inner) = self.as_mut().project().inner.as_pin_mut() else {
            return self.poll_early(cx);
        };
        inner.poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
            None => self.early.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None if self.early.is_none() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
