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
        #[pin]
        kind: Kind<F, B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProjection]
    enum Kind<F, B> {
        Passed { #[pin] inner: B },
        Waiting { watched: Watched<F>, heartbeat: Option<Bytes> },
        // A late response that cannot be passed on.
        Refused { #[pin] inner: B, status: StatusCode, text: Vec<u8> },
        Ended,
    }
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
}

impl<F, B> HeartbeatBody<F, B> {
    pub(super) fn passed(inner: B) -> Self {
        Self {
            kind: Kind::Passed { inner },
        }
    }

    pub(super) fn new(watched: Watched<F>, heartbeat: Bytes) -> Self {
        let heartbeat = Some(heartbeat);
        Self {
            kind: Kind::Waiting { watched, heartbeat },
        }
    }
}

impl<F, B: Body> Kind<F, B> {
    /// Handles a response that arrives after a heartbeat.
    fn of(answer: Response<B>, record: Option<&Record>) -> Self {
        if let Some(record) = record {
            // The heartbeat was not the response's first byte.
            record.update(|outcome| {
                outcome.time_to_first_byte = Some(Instant::now() - outcome.started);
            });
        }
        let status = answer.status();
        let is_stream = Framing::of(answer.headers()) == Some(Framing::Sse);
        let inner = answer.into_body();
        match status == StatusCode::OK && is_stream {
            true => Self::Passed { inner },
            false => Self::Refused {
                inner,
                status,
                text: Vec::new(),
            },
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
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut kind = self.project().kind;
        loop {
            let next = match kind.as_mut().project() {
                KindProjection::Passed { inner } => {
                    return inner.poll_frame(cx).map_err(Into::into);
                }
                KindProjection::Waiting { watched, heartbeat } => {
                    if let Some(heartbeat) = heartbeat.take() {
                        return Poll::Ready(Some(Ok(Frame::data(heartbeat))));
                    }
                    match watched.poll(cx) {
                        Poll::Ready(Ok(answer)) => Kind::of(answer, watched.record.as_ref()),
                        Poll::Ready(Err(error)) => {
                            kind.set(Kind::Ended);
                            return Poll::Ready(Some(Err(error.into())));
                        }
                        Poll::Pending => {
                            let heartbeat = ready!(watched.poll_heartbeat(cx));
                            return Poll::Ready(Some(Ok(Frame::data(heartbeat))));
                        }
                    }
                }
                KindProjection::Refused {
                    inner,
                    status,
                    text,
                } => {
                    if let Some(Ok(frame)) = ready!(inner.poll_frame(cx)) {
                        let data = frame.into_data().unwrap_or_default();
                        let room = MAX_REFUSAL_BYTES - text.len();
                        text.extend_from_slice(&data[..data.len().min(room)]);
                        if text.len() < MAX_REFUSAL_BYTES {
                            continue;
                        }
                    }
                    let refused = Failure::from(RefusedLate::of(*status, text));
                    kind.set(Kind::Ended);
                    return Poll::Ready(Some(Err(refused.into())));
                }
                KindProjection::Ended => return Poll::Ready(None),
            };
            kind.set(next);
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passed { inner } => inner.is_end_stream(),
            Kind::Waiting { .. } | Kind::Refused { .. } => false,
            Kind::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passed { inner } => inner.size_hint(),
            Kind::Ended => SizeHint::with_exact(0),
            Kind::Waiting { .. } | Kind::Refused { .. } => SizeHint::default(),
        }
    }
}
