//! The client's socket with a clock for writes that do not get on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clock::Clock;
use super::state::ConnectionState;

/// A socket whose writes fail once they have been pending for too long.
///
/// The clock starts when a write finds the kernel's buffer full and stops at the next byte that
/// is taken, so a successful write costs a look at a flag and no timer is touched. While a write
/// is pending it is the `Sleep` that wakes the connection's task; hyper then tries its write
/// again, before all else that could keep it waiting, and is told that it failed.
#[derive(Debug)]
pub(super) struct StallGuard<IO> {
    io: IO,
    timeout: Option<Duration>,
    clock: Clock,
    state: Arc<ConnectionState>,
}

impl<IO> StallGuard<IO> {
    pub(super) fn new(io: IO, timeout: Option<Duration>, state: Arc<ConnectionState>) -> Self {
        Self {
            io,
            timeout,
            clock: Clock::default(),
            state,
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
                self.clock.stop();
                self.state.set_write_pending(false);
            }
            if result.is_err() {
                self.state.set_write_failed(true);
            }
            return Poll::Ready(result);
        }
        if !self.state.has_write_pending() {
            self.clock.start(self.timeout);
            self.state.set_write_pending(true);
        }
        ready!(self.clock.poll(cx));
        self.state.set_write_failed(true);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client has read nothing for too long",
        )))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for StallGuard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) if buf.filled().len() > before => self.state.bytes_read(),
            Poll::Ready(Ok(())) if buf.remaining() == 0 => {}
            Poll::Ready(_) => self.state.set_peer_closed(true),
            Poll::Pending => {}
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for StallGuard<IO> {
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
        let flush = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.set_shut_down(true);
        let shutdown = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(cx, shutdown)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn pipe() -> (StallGuard<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(8);
        let state = ConnectionState::new(Arc::default());
        (StallGuard::new(ours, Some(TIMEOUT), state), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stays_pending_fails_when_the_time_is_over() {
        let (mut guard, _theirs) = pipe();
        let start = Instant::now();
        let error = guard.write_all(&[0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), TIMEOUT);
        assert!(guard.state.has_write_failed());
    }

    #[tokio::test(start_paused = true)]
    async fn every_byte_taken_starts_the_clock_anew() {
        let (mut guard, mut theirs) = pipe();
        let reader = async move {
            for _ in 0..20 {
                tokio::time::sleep(TIMEOUT - Duration::from_secs(1)).await;
                theirs.read_u8().await.unwrap();
            }
            theirs
        };
        let (written, _theirs) = tokio::join!(guard.write_all(&[0; 28]), reader);
        written.unwrap();
        assert!(!guard.state.has_write_failed());
        assert!(!guard.state.has_write_pending());
    }
}
