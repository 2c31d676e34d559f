//! The lingering close.
//!
//! A socket that is closed while bytes of its peer are unread resets the connection, and an
//! answer that was given early (401, 413, 429) is lost with it before the client has read it.
//! So the end of the writing side is sent first, and what the client is still sending is read
//! and thrown away, within bounds.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How much is thrown away, in bytes, and for how long.
const LIMIT: usize = 8 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection that is closed in two steps.
#[derive(Debug)]
pub(super) struct Linger<IO> {
    io: IO,
    closing: Option<Closing>,
}

#[derive(Debug)]
struct Closing {
    patience: Pin<Box<Sleep>>,
    left: usize,
}

impl<IO> Linger<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self { io, closing: None }
    }
}

impl<IO: AsyncRead + Unpin> Linger<IO> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = self.closing.get_or_insert_with(|| Closing {
            patience: Box::pin(sleep(PATIENCE)),
            left: LIMIT,
        });
        let mut scratch = [0; 8 * 1024];
        while closing.left > 0 {
            let mut read = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    closing.left = closing.left.saturating_sub(read.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return closing.patience.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Linger<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        self.poll_drain(cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_client_still_sends_is_read_before_the_end() {
        let (ours, mut theirs) = duplex(16);
        let sending = tokio::spawn(async move {
            theirs.write_all(&[0; 1000]).await.expect("it is read");
            let mut seen = Vec::new();
            drop(theirs.read_to_end(&mut seen).await);
            seen
        });
        let mut lingering = Linger::new(ours);
        lingering.write_all(b"early").await.expect("it fits");
        lingering.shutdown().await.expect("the client leaves");
        drop(lingering);
        assert_eq!(sending.await.expect("no panic"), b"early");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_is_not_waited_for() {
        let (ours, _theirs) = duplex(16);
        let started = tokio::time::Instant::now();
        Linger::new(ours).shutdown().await.expect("patience ends");
        assert_eq!(started.elapsed(), PATIENCE);
    }
}
