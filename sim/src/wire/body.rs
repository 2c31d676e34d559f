//! The body of every answer: whole, a few lines, or a generation under way; and the faults
//! that cut it short.

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
use crate::log::Watched;
use crate::server::{Connection, LastWords};

/// A body of the simulated server.
pub(crate) struct SimBody {
    source: Source,
    fault: Option<BodyFault>,
    watched: Option<Watched>,
}

enum Source {
    Full(Option<Bytes>),
    Lines(VecDeque<Bytes>),
    Generation(Box<Generation>),
}

/// The client sees an unclean end; what is left to say goes out as raw bytes.
#[derive(Debug)]
pub(crate) struct CutShort;

impl std::fmt::Display for CutShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer is cut short on demand")
    }
}

impl std::error::Error for CutShort {}

/// What happens to a body once so many frames have passed.
pub(crate) struct BodyFault {
    frames_left: u64,
    connection: Arc<Connection>,
    act: Act,
}

pub(crate) enum Act {
    Stall(Option<Duration>),
    Truncate,
    /// One more line, perhaps, and a clean end.
    EndWith(Option<Bytes>),
    Garbage,
    Die(Ending, Cut),
    /// A pause under way.
    Pause(Pin<Box<Sleep>>),
    /// What was sent must reach the socket before the end.
    Flushing(LastWords),
    /// The same, done.
    Flushed,
}

impl BodyFault {
    pub(crate) fn new(frames: u64, connection: Arc<Connection>, act: Act) -> Self {
        Self {
            frames_left: frames,
            connection,
            act,
        }
    }
}

impl SimBody {
    fn new(source: Source) -> Self {
        Self {
            source,
            fault: None,
            watched: None,
        }
    }

    /// One piece of known length.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::new(Source::Full((!bytes.is_empty()).then_some(bytes)))
    }

    /// Chunks that are all there.
    pub(crate) fn lines(lines: VecDeque<Bytes>) -> Self {
        Self::new(Source::Lines(lines))
    }

    /// Chunks that are being made.
    pub(crate) fn generation(generation: Generation) -> Self {
        Self::new(Source::Generation(Box::new(generation)))
    }

    pub(crate) fn set_fault(&mut self, fault: BodyFault) {
        self.fault = Some(fault);
    }

    /// The record of this exchange rides the body to its end.
    pub(crate) fn set_watched(&mut self, mut watched: Watched) {
        if self.is_end_stream() {
            watched.complete();
        }
        self.watched = Some(watched);
    }

    /// Whether it is sent line by line as it is made.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.source, Source::Generation(_))
    }

    fn is_chunked(&self) -> bool {
        !matches!(self.source, Source::Full(_))
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.source {
            Source::Full(bytes) => Poll::Ready(bytes.take()),
            Source::Lines(lines) => Poll::Ready(lines.pop_front()),
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

    /// The fault's turn: `Ready(None)` when the body may go on.
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
            match &mut fault.act {
                Act::Stall(None) => return Poll::Pending,
                Act::Stall(Some(pause)) => fault.act = Act::Pause(Box::pin(sleep(*pause))),
                Act::Pause(pause) => {
                    ready!(pause.as_mut().poll(cx));
                    self.fault = None;
                }
                Act::Truncate => return Poll::Ready(Some(Ok(None))),
                Act::EndWith(line) => return Poll::Ready(Some(Ok(line.take()))),
                Act::Garbage => {
                    let raw = Bytes::from_static(b"\x00\xff\x16\x03garbage\r\n\r\n");
                    fault.act = Act::Flushing(LastWords::new(raw, Ending::Fin));
                }
                Act::Die(ending, Cut::Boundary) => {
                    fault.act = Act::Flushing(LastWords::new(Bytes::new(), *ending));
                }
                Act::Die(ending, cut) => {
                    let (ending, cut) = (*ending, *cut);
                    let next = ready!(self.poll_source(cx)).unwrap_or_default();
                    let half = next.slice(..next.len() / 2);
                    let Some(fault) = &mut self.fault else {
                        return Poll::Ready(None);
                    };
                    if cut == Cut::InsideLine {
                        fault.act = Act::Flushing(LastWords::new(Bytes::new(), ending));
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
                    fault.act = Act::Flushing(LastWords::new(raw.freeze(), ending));
                }
                Act::Flushing(words) => {
                    // hyper flushes what it has when a body has nothing more to say for now.
                    fault.connection.leave(words.clone());
                    fault.act = Act::Flushed;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Act::Flushed => return Poll::Ready(Some(Err(CutShort))),
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
        if let Some(watched) = &mut this.watched {
            match &next {
                Ok(Some(_)) => watched.line(),
                Ok(None) => watched.complete(),
                Err(_) => watched.cut_short(),
            }
            if is_over {
                watched.complete();
            }
        }
        Poll::Ready(next.transpose().map(|line| line.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        // A chunked body says so with its last chunk, whether or not there was a line.
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
