//! A client's socket below hyper: the time-out of stalled writes, and detection of a disconnect.

use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use llamatower_layers::Deadline;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::request_line::{LONGEST_LINE, has_whole_line, malformed_line};
use super::state::{ConnectionState, Phase};

/// How many bytes of later requests are buffered. Beyond this, a disconnect is not noticed.
const MAX_READ_AHEAD: usize = 64 * 1024;

/// A client's socket.
///
/// - **A write fails if it is pending for too long.** The clock starts when a write finds the
///   kernel's buffer full, and stops at the next byte that is accepted. A successful write
///   therefore costs one check of a flag, and no timer is touched. While a write is pending, the
///   `Sleep` wakes the connection's task; hyper then retries its write, and gets an error.
/// - **A disconnect is noticed during a request**, also behind bytes of the next request: hyper
///   does not read then, but it flushes in every turn.
/// - **hyper's own response to a head that it cannot parse is dropped**, because it has no text.
///   The connection sends one with a text.
#[derive(Debug)]
pub(super) struct ClientSocket<IO> {
    io: IO,
    timeout: Option<Duration>,
    clock: Deadline,
    state: Arc<ConnectionState>,
    /// The beginning of a request line that arrived in pieces.
    line: Vec<u8>,
    /// Bytes that arrived while hyper did not read.
    ahead: BytesMut,
    /// hyper waits for bytes, and so notices a disconnect itself.
    is_reading: bool,
    /// The turn in which the disconnect was last checked.
    looked_in: u32,
}

impl<IO> ClientSocket<IO> {
    /// The socket of a client that has already sent the bytes `ahead`.
    pub(super) fn new(
        io: IO,
        ahead: BytesMut,
        timeout: Option<Duration>,
        state: Arc<ConnectionState>,
    ) -> Self {
        Self {
            io,
            timeout,
            clock: Deadline::default(),
            state,
            line: Vec::new(),
            ahead,
            is_reading: false,
            looked_in: 0,
        }
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = write {
            if self.state.has_write_pending() {
                self.clock.disarm();
                self.state.set_write_pending(false);
            }
            if result.is_err() {
                self.state.set_write_failed(true);
            }
            return Poll::Ready(result);
        }
        if !self.state.has_write_pending() {
            self.clock.arm_after(self.timeout);
            self.state.set_write_pending(true);
        }
        ready!(self.clock.poll(cx));
        self.state.set_write_failed(true);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client did not read for too long (limit: LLAMATOWER_WRITE_STALL_TIMEOUT)",
        )))
    }

    /// Inspects bytes before hyper receives them.
    fn has_read(&mut self, bytes: &[u8]) {
        if self.state.is_body_open() {
            // Bytes of a request that was answered early are not a head and do not begin one.
            return self.state.bytes_read(bytes.len());
        }
        let begun = std::mem::take(&mut self.line);
        let goes_on = !begun.is_empty() && self.state.phase().1 == Phase::Head;
        if goes_on || self.state.awaits_head() {
            let line = match goes_on {
                true => Cow::Owned([&begun, bytes].concat()),
                false => Cow::Borrowed(bytes),
            };
            if let Some(found) = malformed_line(&line) {
                self.state.set_malformed(found);
            }
            if line.len() <= LONGEST_LINE && !has_whole_line(&line) {
                self.line = line.into_owned();
            }
        }
        self.state.bytes_read(bytes.len());
    }

    /// If hyper writes its own response to a head that it refuses: records that, and returns how
    /// many bytes to discard.
    fn dropped(&self, bytes: usize) -> Option<usize> {
        self.state.is_refusing().then(|| {
            self.state.set_refused(true);
            bytes
        })
    }
}

impl<IO: AsyncRead + Unpin> ClientSocket<IO> {
    /// Checks for a disconnect while a request is answered and hyper does not read: behind one byte
    /// of the next request, hyper would not notice it. Once per turn is enough, because a later
    /// event wakes the task.
    fn look_for_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let turn = self.state.turn();
        let is_answering = self.state.phase().1 == Phase::Exchange && !self.state.is_body_open();
        if self.is_reading || self.looked_in == turn || !is_answering {
            return Ok(());
        }
        self.looked_in = turn;
        while self.ahead.len() < MAX_READ_AHEAD {
            let mut piece = [std::mem::MaybeUninit::uninit(); 1024];
            let mut piece = ReadBuf::uninit(&mut piece);
            match Pin::new(&mut self.io).poll_read(cx, &mut piece) {
                Poll::Pending => break,
                Poll::Ready(read) => read?,
            }
            if piece.filled().is_empty() {
                self.state.set_peer_closed(true);
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            self.ahead.extend_from_slice(piece.filled());
        }
        Ok(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ClientSocket<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match self.ahead.is_empty() {
            true => Pin::new(&mut self.io).poll_read(cx, buf),
            false => {
                let length = self.ahead.len().min(buf.remaining());
                buf.put_slice(&self.ahead[..length]);
                self.ahead.advance(length);
                Poll::Ready(Ok(()))
            }
        };
        self.is_reading = read.is_pending();
        match &read {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                self.has_read(&buf.filled()[before..]);
            }
            Poll::Ready(Ok(())) if buf.remaining() == 0 => {}
            Poll::Ready(_) => self.state.set_peer_closed(true),
            Poll::Pending => {}
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientSocket<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(dropped) = self.dropped(buf.len()) {
            return Poll::Ready(Ok(dropped));
        }
        let write = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(dropped) = self.dropped(bufs.iter().map(|buf| buf.len()).sum()) {
            return Poll::Ready(Ok(dropped));
        }
        let write = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes only when it has nothing left to write.
        self.state.set_flushed(true);
        self.look_for_end(cx)?;
        let flush = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.set_shut_down(true);
        if self.state.has_refused() {
            // The refusal's response is sent first.
            return Poll::Ready(Ok(()));
        }
        let shutdown = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(cx, shutdown)
    }
}
