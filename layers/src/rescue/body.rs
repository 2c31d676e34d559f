//! Errors after the head of an answer.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::watch;

use super::future::message_of;
use super::service::Asked;
use crate::dialect::ErrorText;
use crate::frames::{Framing, StreamEnd, Tail};
use crate::{BoxError, Fail, Failure, Operation, Side};

pin_project! {
    /// The body of [`Rescue`](super::Rescue): an answer that is watched, or one that tells of an
    /// error.
    #[derive(Debug)]
    pub struct RescueBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<B> {
        Told { text: Option<Bytes> },
        Passed { #[pin] inner: B, asked: Asked },
        Watched { #[pin] inner: B, watch: Watch },
    }
}

/// What is known of a stream.
#[derive(Debug)]
struct Watch {
    tail: Tail,
    asked: Asked,
    cutoff: Option<Cutoff>,
    is_over: bool,
}

impl<B> RescueBody<B> {
    pub(super) fn told(text: Bytes) -> Self {
        let kind = Kind::Told { text: Some(text) };
        Self { kind }
    }
}

impl<B: Body<Data = Bytes>> RescueBody<B> {
    /// Watches the body if it is a stream that can be ended by a frame.
    pub(super) fn watching(
        inner: B,
        head: &response::Parts,
        asked: Asked,
        cutoff: Option<watch::Receiver<bool>>,
    ) -> Self {
        let can_be_ended =
            head.status == StatusCode::OK && !asked.is_head && inner.size_hint().exact().is_none();
        let framing = Framing::of(&head.headers).filter(|_| can_be_ended);
        let kind = match framing {
            None => Kind::Passed { inner, asked },
            Some(framing) => Kind::Watched {
                inner,
                watch: Watch {
                    tail: Tail::new(framing),
                    asked,
                    cutoff: cutoff.map(Cutoff::new),
                    is_over: false,
                },
            },
        };
        Self { kind }
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
        match self.project().kind.project() {
            KindProjection::Told { text } => {
                Poll::Ready(text.take().map(|text| Ok(Frame::data(text))))
            }
            KindProjection::Passed { inner, asked } => inner.poll_frame(cx).map(|frame| {
                let frame = frame?.map_err(Into::into);
                if let Err(error) = &frame {
                    asked.note_broken(kind_of(error));
                }
                Some(frame)
            }),
            KindProjection::Watched { inner, watch } => watch.poll(inner, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Told { text } => text.is_none(),
            Kind::Passed { inner, .. } => inner.is_end_stream(),
            Kind::Watched { watch, .. } => watch.is_over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Told { text } => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Passed { inner, .. } => inner.size_hint(),
            Kind::Watched { .. } => SizeHint::default(),
        }
    }
}

impl Watch {
    fn poll<B>(
        &mut self,
        inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if self.is_over {
            return Poll::Ready(None);
        }
        match inner.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.tail.push(data);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(self.broken(error.into()))),
            Poll::Ready(None) => Poll::Ready(self.ended()),
            Poll::Pending => {
                let cutoff = self.cutoff.as_mut();
                match cutoff.is_some_and(|cutoff| cutoff.is_reached(cx)) {
                    true => Poll::Ready(Some(self.broken(Failure::from(CutOff).into()))),
                    false => Poll::Pending,
                }
            }
        }
    }

    /// The inner body says that this was all: was it?
    fn ended(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        let operation = self.asked.operation.unwrap_or(Operation::Extra);
        match self.tail.end(self.asked.dialect, operation) {
            StreamEnd::Complete => {
                self.is_over = true;
                None
            }
            StreamEnd::ErrorSeen => {
                self.is_over = true;
                self.asked.note_error("backend_error");
                None
            }
            StreamEnd::Unfinished => Some(self.broken(Failure::from(Unfinished).into())),
        }
    }

    /// The last frame of a broken stream, or the error that ends the connection, where no frame
    /// may stand.
    fn broken(&mut self, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        self.is_over = true;
        self.asked.note_broken(kind_of(&error));
        if !self.tail.is_at_boundary() {
            return Err(error);
        }
        let message = message_of(&*error);
        let frame = self.asked.dialect.error_frame(ErrorText {
            status: Failure::find(&*error).map_or(StatusCode::BAD_GATEWAY, Failure::status),
            message: &message,
            request_id: self
                .asked
                .request_id
                .as_ref()
                .and_then(|id| id.to_str().ok()),
        });
        Ok(Frame::data(frame))
    }
}

fn kind_of(error: &BoxError) -> &'static str {
    Failure::find(&**error).map_or("internal_error", Failure::kind)
}

type Reached = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits for the cutoff without asking for it at each poll: a task keeps its waker.
struct Cutoff {
    receiver: watch::Receiver<bool>,
    waiting: Option<(Waker, Reached)>,
}

impl Cutoff {
    fn new(receiver: watch::Receiver<bool>) -> Self {
        Self {
            receiver,
            waiting: None,
        }
    }

    fn is_reached(&mut self, cx: &mut Context<'_>) -> bool {
        let is_registered = |(waker, _): &(Waker, _)| waker.will_wake(cx.waker());
        let changed = self.receiver.has_changed().unwrap_or(false);
        if !changed && self.waiting.as_ref().is_some_and(is_registered) {
            return false;
        }
        let mut receiver = self.receiver.clone();
        let mut waiting: Reached = Box::pin(async move {
            if receiver.wait_for(|cut| *cut).await.is_err() {
                std::future::pending().await
            }
        });
        let is_reached = waiting.as_mut().poll(cx).is_ready();
        self.waiting = Some((cx.waker().clone(), waiting));
        is_reached
    }
}

impl fmt::Debug for Cutoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cutoff")
            .field(&*self.receiver.borrow())
            .finish()
    }
}

/// A stream ended without what ends a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished;

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the backend ended its answer in the middle; what came so far is not whole")
    }
}

impl Error for Unfinished {}

impl Fail for Unfinished {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "answer_unfinished"
    }
}

/// The drain's time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the gateway is shutting down; ask again")
    }
}

impl Error for CutOff {}

impl Fail for CutOff {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "shutting_down"
    }
}
