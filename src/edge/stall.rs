//! The clock of a write that does not get on.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;

use super::clock::Clock;
use crate::http1::outbox::Outbox;

/// Starts when a write finds the kernel's buffer full and starts anew with every byte that is
/// taken, so a write that succeeds costs a look at a flag and no timer is touched.
#[derive(Debug)]
pub(super) struct StallClock {
    timeout: Option<Duration>,
    clock: Clock,
    is_stalled: bool,
}

impl StallClock {
    /// One that lets a write be pending for `timeout`.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            clock: Clock::default(),
            is_stalled: false,
        }
    }

    /// Writes what waits; ready when nothing does.
    ///
    /// # Errors
    /// The connection failed, or nothing was taken for too long.
    pub(super) fn poll_write(
        &mut self,
        outbox: &mut Outbox,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let before = outbox.len();
        let written = outbox.poll_write(io, cx);
        if written.is_ready() || outbox.len() < before {
            self.is_stalled = false;
        }
        match written {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => self.poll_over(cx).map(Err),
        }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !std::mem::replace(&mut self.is_stalled, true) {
            self.clock.start(self.timeout);
        }
        ready!(self.clock.poll(cx));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client has read nothing for too long",
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    async fn write(bytes: &'static [u8], io: &mut DuplexStream) -> io::Result<()> {
        let mut stall = StallClock::new(Some(TIMEOUT));
        let mut outbox = Outbox::default();
        outbox.put(Bytes::from_static(bytes));
        poll_fn(|cx| stall.poll_write(&mut outbox, io, cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stays_pending_fails_when_the_time_is_over() {
        let (mut ours, _theirs) = tokio::io::duplex(8);
        let start = Instant::now();
        let error = write(&[0; 9], &mut ours).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn every_byte_taken_starts_the_clock_anew() {
        let (mut ours, mut theirs) = tokio::io::duplex(8);
        let reader = async {
            for _ in 0..20 {
                tokio::time::sleep(TIMEOUT - Duration::from_secs(1)).await;
                theirs.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(write(&[0; 28], &mut ours), reader);
        written.unwrap();
    }
}
