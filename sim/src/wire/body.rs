//! The body of an answer: complete, a few lines, or a generation in progress; and the faults that
//! cut it short.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::engine::Generation;
use crate::fault::{Cut, Ending};
use crate::log::ExchangeGuard;
use crate::server::{Connection, FinalBytes};

/// A body of the simulated server.
pub(crate) struct SimBody {
    source: Source,
    fault: Option<BodyFault>,
    guard: Option<ExchangeGuard>,
    /// Runs when the last line is sent.
    at_last_line: Option<Box<dyn FnOnce() + Send>>,
}

enum Source {
    Full(Option<Bytes>),
    Lines(VecDeque<Bytes>),
    Generation(Box<Generation>),
}

/// The client sees an unclean end. The remaining bytes are written raw.
#[derive(Debug)]
pub(crate) struct CutShort;

impl std::fmt::Display for CutShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer is cut short by a fault")
    }
}

impl std::error::Error for CutShort {}

/// A fault after a number of frames.
pub(crate) struct BodyFault {
    frames_left: u64,
    connection: Arc<Connection>,
    action: BodyAction,
}

pub(crate) enum BodyAction {
    Stall(Option<Duration>),
    Truncate,
    /// An optional last line, and a clean end.
    EndWith(Option<Bytes>),
    Garbage,
    Die(Ending, Cut),
    /// A pause in progress.
    Pause(Pin<Box<Sleep>>),
    /// The sent data must reach the socket before the end.
    Flushing(FinalBytes),
    /// The sent data has reached the socket.
    Flushed,
}

impl BodyFault {
    pub(crate) fn new(frames: u64, connection: Arc<Connection>, action: BodyAction) -> Self {
        Self {
            frames_left: frames,
            connection,
            action,
        }
    }
}

impl SimBody {
    fn new(source: Source) -> Self {
        Self {
            source,
            fault: None,
            guard: None,
            at_last_line: None,
        }
    }

    /// A body of one piece with a known length.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::new(Source::Full((!bytes.is_empty()).then_some(bytes)))
    }

    /// A body of existing chunks.
    pub(crate) fn lines(lines: VecDeque<Bytes>) -> Self {
        Self::new(Source::Lines(lines))
    }

    /// A body of chunks that are being generated.
    pub(crate) fn generation(generation: Generation) -> Self {
        Self::new(Source::Generation(Box::new(generation)))
    }

    /// Runs `act` when the last line of the body is sent.
    pub(crate) fn at_last_line(&mut self, act: impl FnOnce() + Send + 'static) {
        self.at_last_line = Some(Box::new(act));
    }

    pub(crate) fn set_fault(&mut self, fault: BodyFault) {
        self.fault = Some(fault);
    }

    /// The body carries the record of its exchange to its end.
    pub(crate) fn set_guard(&mut self, mut guard: ExchangeGuard) {
        if self.is_end_stream() {
            guard.complete();
        }
        self.guard = Some(guard);
    }

    /// Whether the body is sent line by line as it is generated.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.source, Source::Generation(_))
    }

    /// Whether the body consists of existing lines.
    pub(crate) fn is_lines(&self) -> bool {
        matches!(self.source, Source::Lines(_))
    }

    fn is_chunked(&self) -> bool {
        !matches!(self.source, Source::Full(_))
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.source {
            Source::Full(bytes) => Poll::Ready(bytes.take()),
            Source::Lines(lines) => {
                let line = lines.pop_front();
                if lines.is_empty()
                    && let Some(act) = self.at_last_line.take()
                {
                    act();
                }
                Poll::Ready(line)
            }
            Source::Generation(generation) => generation.poll_line(cx),
        }
    }

    fn source_ended(&self) -> bool {
        match &self.source {
            Source::Full(bytes) => bytes.is_none(),
            Source::Lines(lines) => lines.is_empty(),
            Source::Generation(generation) => generation.is_ended(),
        }
    }

    /// Applies the fault: `Ready(None)` if the body may continue.
    fn poll_fault(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Option<Bytes>, CutShort>>> {
        let chunked = self.is_chunked();
        loop {
            let Some(fault) = &mut self.fault else {
                return Poll::Ready(None);
            };
            if fault.frames_left > 0 {
                return Poll::Ready(None);
            }
            match &mut fault.action {
                BodyAction::Stall(None) => return Poll::Pending,
                BodyAction::Stall(Some(pause)) => {
                    fault.action = BodyAction::Pause(Box::pin(sleep(*pause)))
                }
                BodyAction::Pause(pause) => {
                    ready!(pause.as_mut().poll(cx));
                    self.fault = None;
                }
                BodyAction::Truncate => return Poll::Ready(Some(Ok(None))),
                BodyAction::EndWith(line) => return Poll::Ready(Some(Ok(line.take()))),
                BodyAction::Garbage => {
                    let raw = Bytes::from_static(b"\x00\xff\x16\x03garbage\r\n\r\n");
                    fault.action = BodyAction::Flushing(FinalBytes::new(raw, Ending::Fin));
                }
                BodyAction::Die(ending, Cut::Boundary) => {
                    fault.action = BodyAction::Flushing(FinalBytes::new(Bytes::new(), *ending));
                }
                BodyAction::Die(ending, cut) => {
                    let (ending, cut) = (*ending, *cut);
                    let next = ready!(self.poll_source(cx)).unwrap_or_default();
                    let half = next.slice(..next.len() / 2);
                    let Some(fault) = &mut self.fault else {
                        return Poll::Ready(None);
                    };
                    if cut == Cut::InsideLine {
                        fault.action = BodyAction::Flushing(FinalBytes::new(Bytes::new(), ending));
                        if !half.is_empty() {
                            return Poll::Ready(Some(Ok(Some(half))));
                        }
                        continue;
                    }
                    let mut raw = BytesMut::new();
                    if chunked {
                        raw.put(format!("{:x}\r\n", next.len().max(1)).as_bytes());
                    }
                    raw.put(half);
                    fault.action = BodyAction::Flushing(FinalBytes::new(raw.freeze(), ending));
                }
                BodyAction::Flushing(words) => {
                    // hyper flushes its buffer when a body is pending.
                    fault.connection.leave(words.clone());
                    fault.action = BodyAction::Flushed;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                BodyAction::Flushed => return Poll::Ready(Some(Err(CutShort))),
            }
        }
    }
}

impl Body for SimBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = self.get_mut();
        let next = match ready!(this.poll_fault(cx)) {
            Some(next) => next,
            None => Ok(ready!(this.poll_source(cx))),
        };
        if let Some(fault) = &mut this.fault {
            fault.frames_left = fault.frames_left.saturating_sub(1);
        }
        let is_over = this.fault.is_none() && this.source_ended();
        if let Some(guard) = &mut this.guard {
            match &next {
                Ok(Some(_)) => guard.line(),
                Ok(None) => guard.complete(),
                Err(_) => guard.cut_short(),
            }
            if is_over {
                guard.complete();
            }
        }
        Poll::Ready(next.transpose().map(|line| line.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        // A chunked body ends with its last chunk, whether or not there was a line.
        !self.is_chunked() && self.fault.is_none() && self.source_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            _ => SizeHint::default(),
        }
    }
}
