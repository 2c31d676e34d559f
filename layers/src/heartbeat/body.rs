//! A body of heartbeats, followed by the response.

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

/// Limit of a refusal's body that is read, because its text becomes a single line.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;

pin_project! {
    /// The body of a response: the inner one, after heartbeats if it is late.
    #[derive(Debug)]
    pub struct HeartbeatBody<F, B> {
        // `None` until there is a response.
        #[pin]
        inner: Option<B>,
        // Boxed, because bodies are moved often and few responses are late.
        early: Option<Box<Early<F>>>,
    }
}

/// The state before the response passes through.
#[derive(Debug)]
enum Early<F> {
    Waiting {
        watched: Watched<F>,
        heartbeat: Option<Bytes>,
    },
    /// The inner body belongs to a late response that cannot be passed on.
    Refused { status: StatusCode, text: Vec<u8> },
}

/// The inner service's future, and the timer of the next heartbeat.
#[derive(Debug)]
pub(super) struct Watched<F> {
    response: Pin<Box<F>>,
    every: Duration,
    due: Deadline,
    waiting: Waiting,
    record: Option<Record>,
}

impl<F> Watched<F> {
    pub(super) fn new(
        response: F,
        every: Duration,
        waiting: Waiting,
        record: Option<Record>,
    ) -> Self {
        let mut due = Deadline::default();
        due.arm_after(every);
        Self {
            response: Box::pin(response),
            every,
            due,
            waiting,
            record,
        }
    }

    /// The next heartbeat, when it is due.
    pub(super) fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        ready!(self.due.poll(cx));
        self.due.arm_after(self.every);
        let text = self.waiting.text();
        let text = text.as_deref().unwrap_or("waiting for the response");
        Poll::Ready(format!(": {}\n\n", text.replace(['\r', '\n'], " ")).into())
    }
}

impl<F: Future> Watched<F> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.response.as_mut().poll(cx)
    }

    /// Records that the response has arrived: the heartbeat was not its first byte.
    fn note_first_byte(&self) {
        if let Some(record) = &self.record {
            record.update(|outcome| {
                outcome.time_to_first_byte = Some(Instant::now() - outcome.started);
            });
        }
    }
}

/// A body without frames.
impl<F, B> Default for HeartbeatBody<F, B> {
    fn default() -> Self {
        Self {
            inner: None,
            early: None,
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

    pub(super) fn new(watched: Watched<F>, heartbeat: Bytes) -> Self {
        let heartbeat = Some(heartbeat);
        Self {
            inner: None,
            early: Some(Box::new(Early::Waiting { watched, heartbeat })),
        }
    }
}

fn is_event_stream<B>(answer: &Response<B>) -> bool {
    answer.status() == StatusCode::OK && Framing::of(answer.headers()) == Some(Framing::Sse)
}

type NextFrame = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

// These functions are cold, so that frames that pass through do not pay for them. Only `poll_frame` polls the
// inner body, because a second call would not be inlined.
impl<F, B, E> HeartbeatBody<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    /// Returns the next frame before the response; `None` if the response has just arrived.
    #[cold]
    fn poll_early(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Option<NextFrame> {
        let mut this = self.project();
        let Some(Early::Waiting { watched, heartbeat }) = this.early.as_deref_mut() else {
            return Some(Poll::Ready(None));
        };
        if let Some(heartbeat) = heartbeat.take() {
            return Some(Poll::Ready(Some(Ok(Frame::data(heartbeat)))));
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
                let heartbeat = watched.poll_heartbeat(cx);
                Some(heartbeat.map(|heartbeat| Some(Ok(Frame::data(heartbeat)))))
            }
        }
    }

    /// Collects the body of a refusal, and returns the error when it is complete.
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
