//! A client's socket below hyper.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use llamatower_layers::Deadline;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::state::SocketState;

/// How many bytes of later requests are buffered. Beyond this, a disconnect is not noticed.
const MAX_READ_AHEAD: usize = 64 * 1024;

/// How many bytes are read ahead at once. Most clients send none.
const READ_AHEAD: usize = 1024;

/// A client's socket, between hyper and the real one.
///
/// - **A write fails if it is pending for too long** ([`WriteStalled`]). The clock starts when a
///   write finds the kernel's buffer full, and stops at the next byte that is accepted, so a client
///   that reads slowly is not disconnected. A successful write costs one check of a flag; no timer
///   is touched.
/// - **A disconnect is noticed during a request**, also behind bytes of the next request. hyper
///   does not read then, so the socket reads up to 64 KiB ahead when hyper flushes, which it does
///   each time it is polled. This needs a [`ConnectionLayer`](crate::ConnectionLayer) or
///   [`ConnectionBody`](crate::ConnectionBody) on the same connection; outside of a request, and
///   after an upgrade, nothing is read ahead.
/// - **It knows whether everything has been flushed**: hyper flushes only when it has nothing left
///   to write.
///
/// Not for a connection with hyper's `half_close(true)`, which lets a client close its side and
/// wait, or `pipeline_flush(true)`, which delays flushes.
///
/// # Panics
/// The methods of [`AsyncWrite`] need a tokio runtime with a timer, if there is a time-out.
#[derive(Debug)]
pub struct ClientSocket<IO> {
    io: IO,
    state: SocketState,
    stall: Deadline,
    /// Bytes that arrived while hyper did not read.
    ahead: BytesMut,
    /// hyper waits for bytes, and so notices a disconnect itself.
    is_reading: bool,
}

impl<IO> ClientSocket<IO> {
    /// Wraps a socket. A write that makes no progress for `write_stall_timeout` fails; `None` is no
    /// limit.
    pub fn new(io: IO, write_stall_timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            io,
            state: SocketState::new(write_stall_timeout.into()),
            stall: Deadline::default(),
            ahead: BytesMut::new(),
            is_reading: false,
        }
    }

    /// Puts bytes that were already read from the socket before those that are still to come.
    #[must_use]
    pub fn with_buffered(mut self, bytes: BytesMut) -> Self {
        self.ahead = bytes;
        self
    }

    /// The socket's state, for a [`ConnectionLayer`](crate::ConnectionLayer).
    pub fn state(&self) -> &SocketState {
        &self.state
    }

    /// The inner socket.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The inner socket.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// The inner socket. Bytes that were read ahead are lost.
    pub fn into_inner(self) -> IO {
        self.io
    }

    /// Starts, stops and polls the clock of a stalled write.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = write {
            if self.state.is_write_pending() {
                self.stall.disarm();
                self.state.set_write_pending(false);
            }
            if result.is_err() {
                self.state.set_write_failed();
            }
            return Poll::Ready(result);
        }
        let limit = self.state.write_stall_timeout();
        if !self.state.is_write_pending() {
            self.stall.arm_after(limit);
            self.state.set_write_pending(true);
        }
        ready!(self.stall.poll(cx));
        self.state.set_write_failed();
        let stalled = WriteStalled(limit.unwrap_or_default());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
    }
}

impl<IO: AsyncRead + Unpin> ClientSocket<IO> {
    /// Checks for a disconnect while a request is answered and hyper does not read: behind one byte
    /// of the next request, hyper would not notice it.
    fn look_for_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.ahead.len() < MAX_READ_AHEAD {
            let mut piece = [MaybeUninit::uninit(); READ_AHEAD];
            let mut piece = ReadBuf::uninit(&mut piece);
            match Pin::new(&mut self.io).poll_read(cx, &mut piece) {
                Poll::Pending => break,
                Poll::Ready(read) => read?,
            }
            if piece.filled().is_empty() {
                self.state.set_peer_closed();
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
        if !self.ahead.is_empty() {
            self.is_reading = false;
            let length = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..length]);
            self.ahead.advance(length);
            if self.ahead.is_empty() {
                // Its memory would be kept as long as the connection.
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.is_reading = read.is_pending();
        match &read {
            Poll::Pending => {}
            Poll::Ready(Ok(())) if buf.filled().len() > before || buf.remaining() == 0 => {}
            Poll::Ready(_) => self.state.set_peer_closed(),
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
        let write = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_reading && self.state.is_answering() {
            self.look_for_end(cx)?;
        }
        let flush = Pin::new(&mut self.io).poll_flush(cx);
        if let Poll::Ready(Ok(())) = &flush {
            self.state.set_flushed();
        }
        self.watch(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(cx, shutdown)
    }
}

/// A client did not read for this long while there was something to write. The source of an
/// [`io::Error`] of the kind [`TimedOut`](io::ErrorKind::TimedOut).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteStalled(pub Duration);

impl fmt::Display for WriteStalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the client did not read for {:?}", self.0)
    }
}

impl std::error::Error for WriteStalled {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{advance, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn pair(limit: Option<Duration>) -> (DuplexStream, ClientSocket<DuplexStream>) {
        let (client, server) = duplex(64);
        (client, ClientSocket::new(server, limit))
    }

    /// Reads what there is.
    async fn read(io: &mut DuplexStream) -> usize {
        io.read(&mut [0; 64]).await.expect("it is open")
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_fails_after_the_limit() {
        let (_client, mut socket) = pair(Some(LIMIT));
        let start = tokio::time::Instant::now();
        let error = socket.write_all(&[0; 100]).await.expect_err("it stalls");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), LIMIT);
        let source = error.get_ref().and_then(|error| error.downcast_ref());
        assert_eq!(source, Some(&WriteStalled(LIMIT)));
        assert!(socket.state().has_write_failed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not_disconnected() {
        let (mut client, mut socket) = pair(Some(LIMIT));
        let reading = async {
            for _ in 0..10 {
                advance(LIMIT - Duration::from_secs(1)).await;
                read(&mut client).await;
            }
        };
        let (written, ()) = tokio::join!(socket.write_all(&[0; 640]), reading);
        written.expect("each read is progress");
        assert!(!socket.state().is_write_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_a_write_waits() {
        let (mut client, mut socket) = pair(None);
        let writing = async { timeout(100 * LIMIT, socket.write_all(&[0; 100])).await };
        assert!(writing.await.is_err());
        assert!(socket.state().is_write_pending());
        assert_eq!(read(&mut client).await, 64);
    }

    #[tokio::test]
    async fn during_a_request_a_disconnect_is_noticed_behind_bytes() {
        let (mut client, mut socket) = pair(None);
        socket.state().set_answering(true);
        client.write_all(b"GET /").await.expect("it is open");
        socket.flush().await.expect("the client is there");
        assert!(!socket.state().has_peer_closed());
        drop(client);
        let error = socket.flush().await.expect_err("the client has gone");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(socket.state().has_peer_closed());
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first() {
        let (mut client, socket) = pair(None);
        let mut socket = socket.with_buffered(BytesMut::from("a"));
        socket.state().set_answering(true);
        for piece in [b"b", b"c"] {
            client.write_all(piece).await.expect("it is open");
            socket.flush().await.expect("the client is there");
        }
        socket.state().set_answering(false);
        client.write_all(b"d").await.expect("it is open");
        drop(client);
        let mut text = String::new();
        socket.read_to_string(&mut text).await.expect("text");
        assert_eq!(text, "abcd");
    }

    /// As after an upgrade, where a client may close its side and wait.
    #[tokio::test]
    async fn outside_of_a_request_a_closed_side_fails_no_flush() {
        let (mut client, mut socket) = pair(None);
        client.write_all(b"bye").await.expect("it is open");
        client.shutdown().await.expect("it is open");
        socket.write_all(b"hello").await.expect("it is open");
        socket.flush().await.expect("nothing is read ahead");
        let mut text = String::new();
        socket.read_to_string(&mut text).await.expect("text");
        assert_eq!(text, "bye");
        assert_eq!(read(&mut client).await, 5);
    }
}
