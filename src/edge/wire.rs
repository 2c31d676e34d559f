//! A client's socket with what was read from it and what waits to be written to it.

use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio_util::either::Either;

use super::intake::Intake;
use super::listener::Stream;
use super::request_head::{Arrival, HeadReader, Refused};
use super::stall::StallClock;
use crate::http1::outbox::Outbox;
use crate::http1::read::poll_read;

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) io: Stream,
    pub(super) reader: HeadReader,
    pub(super) intake: Intake,
    pub(super) outbox: Outbox,
    stall: StallClock,
    /// Nothing can be written any more, or the client has closed.
    is_broken: bool,
    /// Its close is a reset.
    is_reset: bool,
}

impl Wire {
    /// One whose writes fail once they have been pending for `write_stall`.
    pub(super) fn new(io: Stream, write_stall: Option<Duration>) -> Self {
        Self {
            io,
            reader: HeadReader::default(),
            intake: Intake::Whole,
            outbox: Outbox::default(),
            stall: StallClock::new(write_stall),
            is_broken: false,
            is_reset: false,
        }
    }

    /// Lets the socket be closed so that its client sees that something is missing, or not. An answer
    /// of HTTP/1.0 may end with the connection, and a plain close would pass for that.
    pub(super) fn close_by_reset(&mut self, is_on: bool) {
        if std::mem::replace(&mut self.is_reset, is_on) != is_on {
            // If the system refuses, a plain close is all there is. A unix socket knows no other.
            let _ = self.socket().set_linger(is_on.then_some(Duration::ZERO));
        }
    }

    fn socket(&self) -> SockRef<'_> {
        match &self.io {
            Either::Left(stream) => SockRef::from(stream),
            Either::Right(stream) => SockRef::from(stream),
        }
    }

    /// The next request, once its head has come; none when the client has closed.
    pub(super) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Box<Arrival>, Refused>>> {
        let mut next = self.reader.next();
        loop {
            if let Some(request) = next.transpose() {
                return Poll::Ready(Some(request));
            }
            let reader = &mut self.reader;
            let read = poll_read(&mut self.io, cx, |bytes| {
                (!bytes.is_empty()).then(|| reader.read(bytes))
            });
            next = match ready!(read) {
                Ok(Some(next)) => next,
                Ok(None) | Err(_) => {
                    self.is_broken = true;
                    return Poll::Ready(None);
                }
            };
        }
    }

    /// Reads what is wanted of the request's body.
    ///
    /// # Errors
    /// The client has closed.
    pub(super) fn poll_intake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            io,
            reader,
            intake,
            outbox,
            ..
        } = self;
        let read = ready!(intake.poll(io, reader, outbox, cx));
        self.is_broken |= read.is_err();
        Poll::Ready(read)
    }

    /// Writes what waits; ready when nothing does.
    ///
    /// # Errors
    /// The connection failed, or the client has read nothing for too long.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            io, outbox, stall, ..
        } = self;
        let written = ready!(stall.poll_write(outbox, io, cx));
        self.is_broken |= written.is_err();
        Poll::Ready(written)
    }

    /// Whether bytes have come or may come that nobody wants, from a client that may still read.
    pub(super) fn is_to_linger(&self) -> bool {
        !self.is_broken
            && !self.is_reset
            && (!self.intake.is_whole() || self.reader.has_begun() || self.has_unread_bytes())
    }

    /// Asks the kernel itself: the runtime may not have heard of them yet.
    fn has_unread_bytes(&self) -> bool {
        let read = self.socket().recv(&mut [MaybeUninit::uninit()]);
        read.is_ok_and(|length| length > 0)
    }
}
