//! The body of a translated answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use jiff::Timestamp;
use llamatower_layers::dialect::ResponseSoFar;
use llamatower_layers::frames::Framing;
use llamatower_layers::{BoxError, Dialect, Failure};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use super::error::{InvalidAnswer, UnusableAnswer};
use super::line::Moment;
use super::server::Server;
use super::transcoder::{StreamFault, Transcoder};

pin_project! {
    /// The body of an answer: that of the server, its translation, or a text of the gateway.
    #[derive(Debug)]
    pub struct TranslatedBody<R> {
        #[pin]
        kind: Kind<R>,
        // The server, if its probes wait while it sends this body.
        sender: Option<Arc<Server>>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProjected]
    enum Kind<R> {
        // It passes unaltered.
        Unaltered {
            #[pin]
            inner: R,
        },
        // Lines of a stream; boxed, because their size would burden every other body.
        Lines {
            lines: Box<Lines<R>>,
        },
        // One object; `None` after it was read.
        Whole {
            bytes: Option<Bytes>,
        },
    }
}

impl<R> TranslatedBody<R> {
    pub(super) fn unaltered(inner: R) -> Self {
        Self::of(Kind::Unaltered { inner })
    }

    pub(super) fn lines(lines: Lines<R>) -> Self {
        let lines = Box::new(lines);
        Self::of(Kind::Lines { lines })
    }

    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty());
        Self::of(Kind::Whole { bytes })
    }

    fn of(kind: Kind<R>) -> Self {
        Self { kind, sender: None }
    }

    /// Records at the server that it sends this body.
    pub(super) fn sent_by(self, server: &Arc<Server>) -> Self {
        let sender = Some(server.clone());
        Self { sender, ..self }
    }
}

/// The stream of a server, as lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    /// `None` after its end.
    inner: Option<Pin<Box<R>>>,
    transcoder: Transcoder,
    clock: Clock,
    /// Written to for each frame; a frame that was sent gives its memory back.
    buffer: BytesMut,
    server: Arc<str>,
    /// Lines that were read before the head was sent.
    first: Option<Bytes>,
    /// What follows the lines that were read last.
    fault: Option<LinesFault>,
    /// When the body is closed although its server has not ended it, once the last line was read.
    closing: Option<Pin<Box<Sleep>>>,
}

/// How long the end of a body may follow its last line. A server ends it at once, and a connection whose
/// response has ended is used again; a body that goes on would hold the client and the slot.
const LATE_END: Duration = Duration::from_millis(100);

/// The clock of one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    sent: Instant,
}

impl Clock {
    /// It begins when the request is sent.
    pub(super) fn start() -> Self {
        Self {
            sent: Instant::now(),
        }
    }

    pub(super) fn now(self) -> Moment {
        Moment {
            elapsed: self.sent.elapsed().max(Duration::from_nanos(1)),
            wall: Timestamp::now(),
        }
    }
}

impl<R> Lines<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    pub(super) fn new(inner: R, transcoder: Transcoder, clock: Clock, server: Arc<str>) -> Self {
        Self {
            inner: Some(Box::pin(inner)),
            transcoder,
            clock,
            buffer: BytesMut::new(),
            server,
            first: None,
            fault: None,
            closing: None,
        }
    }

    /// Waits for the first lines, so that an error before them still has its status.
    ///
    /// # Errors
    /// The server has sent an error, or its stream has ended or broken.
    pub(super) async fn begin(mut self) -> Result<Self, LinesFault> {
        let first = std::future::poll_fn(|cx| self.poll_lines(cx)).await;
        self.first = first.transpose()?;
        Ok(self)
    }

    /// The next lines; `None` at the end.
    fn poll_lines(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LinesFault>>> {
        loop {
            if let Some(fault) = self.fault.take() {
                return Poll::Ready(Some(Err(fault)));
            }
            let Some(inner) = &mut self.inner else {
                return Poll::Ready(None);
            };
            let frame = inner.as_mut().poll_frame(cx);
            if self.transcoder.is_done() && !matches!(frame, Poll::Ready(None)) {
                let closing = self
                    .closing
                    .get_or_insert_with(|| Box::pin(sleep(LATE_END)));
                if closing.as_mut().poll(cx).is_ready() {
                    self.inner = None;
                    return Poll::Ready(None);
                }
            }
            self.fault = match ready!(frame) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    let now = self.clock.now();
                    let read = self.transcoder.push(&data, now, &mut self.buffer);
                    read.err().map(LinesFault::Stream)
                }
                Some(Err(error)) => Some(LinesFault::Failed(error.into())),
                None => {
                    self.inner = None;
                    self.transcoder.end().err().map(LinesFault::Stream)
                }
            };
            if self.fault.is_some() {
                // This closes the connection.
                self.inner = None;
            }
            if !self.buffer.is_empty() {
                return Poll::Ready(Some(Ok(self.buffer.split().freeze())));
            }
        }
    }
}

/// Why there are no more lines.
#[derive(Debug)]
pub(super) enum LinesFault {
    /// The stream itself.
    Stream(StreamFault),
    /// The connection.
    Failed(BoxError),
}

/// The line of an error that the server has sent in the middle of its stream.
fn error_line(message: &str) -> Bytes {
    Dialect::Ollama.error_frame(Framing::Ndjson, message, &ResponseSoFar::default())
}

pub(super) fn broken(server: &Arc<str>, reason: &'static str) -> BoxError {
    let error = InvalidAnswer {
        reason: reason.into(),
        server: server.clone(),
    };
    Failure::from(error).into()
}

pub(super) fn unusable(server: &Arc<str>, reason: &'static str) -> BoxError {
    let server = server.clone();
    Failure::from(UnusableAnswer { reason, server }).into()
}

impl<R> Body for TranslatedBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let sender = &*this.sender;
        let note_sent = |has_sent: bool| {
            if let Some(server) = sender.as_ref().filter(|_| has_sent) {
                server.note_sent();
            }
        };
        match this.kind.project() {
            KindProjected::Unaltered { inner } => {
                let frame = ready!(inner.poll_frame(cx));
                note_sent(matches!(frame, Some(Ok(_))));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            KindProjected::Lines { lines } => {
                if let Some(first) = lines.first.take() {
                    return Poll::Ready(Some(Ok(Frame::data(first))));
                }
                let lines_read = ready!(lines.poll_lines(cx));
                note_sent(matches!(lines_read, Some(Ok(_))));
                Poll::Ready(lines_read.map(|read| match read {
                    Ok(bytes) => Ok(Frame::data(bytes)),
                    Err(LinesFault::Failed(error)) => Err(error),
                    Err(LinesFault::Stream(StreamFault::Broken(reason))) => {
                        Err(broken(&lines.server, reason))
                    }
                    Err(LinesFault::Stream(StreamFault::Unusable(reason))) => {
                        Err(unusable(&lines.server, reason))
                    }
                    Err(LinesFault::Stream(StreamFault::Error { message, .. })) => {
                        Ok(Frame::data(error_line(&message)))
                    }
                }))
            }
            KindProjected::Whole { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Unaltered { inner } => inner.is_end_stream(),
            Kind::Lines { lines } => {
                lines.inner.is_none() && lines.first.is_none() && lines.fault.is_none()
            }
            Kind::Whole { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Unaltered { inner } => inner.size_hint(),
            Kind::Lines { .. } => SizeHint::default(),
            Kind::Whole { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::super::line::Shape;
    use super::*;

    const CHUNK: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    const LAST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

    /// The translated lines of a body that sends these frames and does not end.
    async fn lines(frames: &[&'static str]) -> (Vec<String>, Duration) {
        let frames: Vec<_> = frames.to_vec();
        let frames = stream::iter(frames).map(|text| Ok(Frame::data(Bytes::from(text))));
        let frames = frames.chain(stream::pending::<Result<_, BoxError>>());
        let transcoder = Transcoder::new(Shape::Chat, "tiny");
        let lines = Lines::new(
            StreamBody::new(frames),
            transcoder,
            Clock::start(),
            "gpu-1".into(),
        );
        let mut body = TranslatedBody::lines(lines);
        let (mut read, begun) = (Vec::new(), Instant::now());
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            read.push(String::from_utf8(data.to_vec()).unwrap());
        }
        (read, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_ends_soon_after_its_last_line_although_its_server_does_not_end_it() {
        for more in [&[][..], &[": still here\n\n", ": still here\n\n"]] {
            let (read, took) = lines(&[&[CHUNK, LAST], more].concat()).await;
            assert!(read.last().unwrap().contains("\"done\":true"), "{read:?}");
            assert!(took <= Duration::from_millis(110), "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_without_its_last_line_is_waited_for() {
        let waiting = tokio::time::timeout(Duration::from_secs(60), lines(&[CHUNK]));
        assert!(waiting.await.is_err());
    }
}
