//! What becomes of the body of a request that did not come with its head.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use super::clock::Clock;
use super::inbox::{Inbox, Wish};
use super::listener::Stream;
use super::request_head::HeadReader;
use crate::http1::decode::{Data, Decoder};
use crate::http1::outbox::Outbox;
use crate::http1::read::{poll_read, poll_read_at_most};

/// Bytes of an unread body that are read and discarded.
pub(super) const DISCARD_BYTES: usize = 1024 * 1024;
/// How long they are waited for.
pub(super) const DISCARD_TIME: Duration = Duration::from_secs(2);

/// The rest of a request's body.
#[derive(Debug)]
pub(super) enum Intake {
    /// All of it has come.
    Whole,
    /// It comes as it is asked for.
    Open(Open),
    /// Nobody reads it: it is discarded, within bounds.
    Left(Left),
    /// Bytes of it are, or may be, on their way, and nobody wants them: no request can follow. So
    /// many have been read all the same, to see the client's end.
    Unread(usize),
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) decoder: Decoder,
    pub(super) inbox: Arc<Inbox>,
    /// The client sends it only once it is told to.
    pub(super) awaits_continue: bool,
    /// The answer has begun: the client cannot be told any more.
    pub(super) is_answered: bool,
}

#[derive(Debug)]
pub(super) struct Left {
    decoder: Decoder,
    bytes: usize,
    clock: Clock,
}

impl Intake {
    /// For a body of which nothing was read in vain yet.
    pub(super) const UNREAD: Self = Self::Unread(0);

    /// For a body that nobody will read.
    pub(super) fn discard(decoder: Decoder, awaits_continue: bool) -> Self {
        match () {
            () if decoder.is_finished() => Self::Whole,
            // Reading would ask the client for what nobody wants. It may send all the same.
            () if awaits_continue => Self::UNREAD,
            () => {
                let mut clock = Clock::default();
                clock.start(Some(DISCARD_TIME));
                Self::Left(Left {
                    decoder,
                    bytes: 0,
                    clock,
                })
            }
        }
    }

    /// The answer begins. Returns whether another request can follow the rest of this one: not if
    /// it waits to be asked for.
    pub(super) fn answered(&mut self) -> bool {
        match self {
            Self::Open(open) => {
                open.is_answered = true;
                !open.awaits_continue
            }
            Self::Whole | Self::Left(_) => true,
            Self::Unread(_) => false,
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// Reads what is wanted of the body; ready when whoever waits for it shall look. What follows it
    /// is kept for the next request.
    ///
    /// # Errors
    /// The client has closed.
    pub(super) fn poll(
        &mut self,
        io: &mut Stream,
        reader: &mut HeadReader,
        outbox: &mut Outbox,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self {
                Self::Whole => return poll_gone(io, reader, cx),
                Self::Unread(bytes) => return poll_unread(bytes, io, cx),
                Self::Left(left) => {
                    let (next, read) = ready!(left.poll(io, reader, cx));
                    *self = next;
                    return Poll::Ready(read);
                }
                Self::Open(open) => match open.inbox.wish() {
                    Wish::Nothing => return Poll::Pending,
                    Wish::More if open.awaits_continue && !open.is_answered => {
                        open.awaits_continue = false;
                        let go_on = Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n");
                        outbox.put(go_on);
                        return Poll::Ready(Ok(()));
                    }
                    Wish::More => {
                        if let Some(next) = ready!(open.poll(io, reader, cx)) {
                            *self = next;
                        }
                        return Poll::Ready(Ok(()));
                    }
                    Wish::Left => {
                        let decoder = std::mem::replace(&mut open.decoder, Decoder::Length(0));
                        *self = Self::discard(decoder, open.awaits_continue);
                    }
                },
            }
        }
    }
}

impl Open {
    /// Hands on what comes; ready with what the intake is then, if it changes.
    fn poll(
        &mut self,
        io: &mut Stream,
        reader: &mut HeadReader,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Intake>> {
        let decoder = &mut self.decoder;
        let read = ready!(poll_read(io, cx, |bytes| take(bytes, decoder, reader)));
        let error = match read {
            Ok(Ok(data)) => {
                self.awaits_continue = false;
                let is_whole = self.decoder.is_finished();
                self.inbox.put(data, is_whole.then_some(Ok(())));
                return Poll::Ready(is_whole.then_some(Intake::Whole));
            }
            Ok(Err(error)) | Err(error) => error,
        };
        self.inbox.put(Bytes::new(), Some(Err(error)));
        Poll::Ready(Some(Intake::UNREAD))
    }
}

/// What these bytes have of the body.
fn take(bytes: &[u8], decoder: &mut Decoder, reader: &mut HeadReader) -> io::Result<Bytes> {
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut data = Data::new();
    let decoded = decoder.decode(bytes, &mut data)?;
    reader.keep(&bytes[decoded.consumed..]);
    Ok(Bytes::from(data.concat()))
}

impl Left {
    fn poll(
        &mut self,
        io: &mut Stream,
        reader: &mut HeadReader,
        cx: &mut Context<'_>,
    ) -> Poll<(Intake, io::Result<()>)> {
        while self.bytes <= DISCARD_BYTES && self.clock.poll(cx).is_pending() {
            let decoder = &mut self.decoder;
            let read = poll_read(io, cx, |bytes| {
                (bytes.len(), take(bytes, decoder, reader).is_ok())
            });
            match ready!(read) {
                Ok((0, _)) => return Poll::Ready((Intake::UNREAD, Err(gone()))),
                Ok((length, true)) => self.bytes += length,
                Ok((_, false)) => break,
                Err(error) => return Poll::Ready((Intake::UNREAD, Err(error))),
            }
            if self.decoder.is_finished() {
                return Poll::Ready((Intake::Whole, Ok(())));
            }
        }
        Poll::Ready((Intake::UNREAD, Ok(())))
    }
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// Ready when the client has closed. What it sends before its time is kept, within bounds: beyond
/// them its end stays hidden until the answer is written.
fn poll_gone(
    io: &mut Stream,
    reader: &mut HeadReader,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while reader.room() > 0 {
        let read = poll_read_at_most(reader.room(), io, cx, |bytes| {
            reader.keep(bytes);
            bytes.is_empty()
        });
        if ready!(read)? {
            return Poll::Ready(Err(gone()));
        }
    }
    Poll::Pending
}

/// Ready when the client has closed. What it sends is nobody's; beyond a bound its end stays hidden.
fn poll_unread(bytes: &mut usize, io: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while *bytes < DISCARD_BYTES {
        match ready!(poll_read(io, cx, <[u8]>::len))? {
            0 => return Poll::Ready(Err(gone())),
            length => *bytes += length,
        }
    }
    Poll::Pending
}
