//! What waits to be written to a client.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use memchr::memchr;
use tokio::io::AsyncWrite;

use super::clock::Clock;

/// While so many bytes wait, no more of an answer is asked for.
const ENOUGH: usize = 64 * 1024;

/// A piece of so many bytes is written from where it lies; a smaller one is cheaper to copy than
/// to point at.
const LARGE: usize = 16 * 1024;

/// A buffer that has grown beyond this is not kept.
const MOST_SPARE: usize = 4 * ENOUGH;

thread_local! {
    /// A buffer is taken from the thread while bytes wait, and given back after: a connection that
    /// waits for its backend holds none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes in the order in which they leave, and the clock of a write that does not get on.
///
/// The clock starts when a write finds the kernel's buffer full and starts anew with every byte
/// that is taken, so a write that succeeds costs a look at a flag and no timer is touched.
#[derive(Debug)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// How many of them have left.
    written: usize,
    /// What follows them and was not copied.
    large: Bytes,
    /// What follows that.
    end: &'static [u8],
    timeout: Option<Duration>,
    clock: Clock,
    is_stalled: bool,
}

impl Outbox {
    /// One whose writes fail once they have been pending for `timeout`.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self {
            bytes: Vec::new(),
            written: 0,
            large: Bytes::new(),
            end: b"",
            timeout,
            clock: Clock::default(),
            is_stalled: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == self.written && self.large.is_empty() && self.end.is_empty()
    }

    /// Whether what waits is to leave before more is put in.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - self.written >= ENOUGH || !self.large.is_empty() || !self.end.is_empty()
    }

    /// Where heads and other small things are written. Not behind a large piece: that leaves after
    /// what is here.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.large.is_empty() && self.end.is_empty());
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        &mut self.bytes
    }

    /// Puts in what has no framing.
    pub(super) fn put(&mut self, data: Bytes) {
        self.put_before(data, b"");
    }

    /// Puts in a chunk (RFC 9112 7.1). An empty one would be the last one, and is left out.
    pub(super) fn put_chunk(&mut self, data: Bytes) {
        if !data.is_empty() {
            write_size(data.len(), self.buffer());
            self.put_before(data, b"\r\n");
        }
    }

    /// Puts in the last chunk, behind all that waits.
    pub(super) fn put_last_chunk(&mut self) {
        match self.large.is_empty() && self.end.is_empty() {
            true => self.buffer().extend_from_slice(b"0\r\n\r\n"),
            // The end of the large chunk and the last one in one piece.
            false => self.end = b"\r\n0\r\n\r\n",
        }
    }

    /// Puts in each line as a chunk of its own. Ollama writes them so, and there are clients that
    /// take a chunk for a line. What is no whole line goes as it came: nobody waits for the rest.
    pub(super) fn put_lines(&mut self, mut data: &[u8]) {
        let buffer = self.buffer();
        while !data.is_empty() {
            let end = memchr(b'\n', data).map_or(data.len(), |at| at + 1);
            write_size(end, buffer);
            buffer.extend_from_slice(&data[..end]);
            buffer.extend_from_slice(b"\r\n");
            data = &data[end..];
        }
    }

    fn put_before(&mut self, data: Bytes, end: &'static [u8]) {
        if data.len() >= LARGE {
            self.large = data;
            self.end = end;
        } else {
            let buffer = self.buffer();
            buffer.extend_from_slice(&data);
            buffer.extend_from_slice(end);
        }
    }

    /// Writes what waits; ready when nothing does.
    ///
    /// # Errors
    /// The connection failed, or nothing was taken for too long.
    pub(super) fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match self.poll_write_once(io, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => {
                    self.is_stalled = false;
                    self.advance(written?);
                }
                Poll::Pending => return self.poll_clock(cx).map(Err),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_once(
        &self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let bytes = &self.bytes[self.written..];
        if self.large.is_empty() && self.end.is_empty() {
            return Pin::new(io).poll_write(cx, bytes);
        }
        let parts = [bytes, &self.large, self.end].map(IoSlice::new);
        Pin::new(io).poll_write_vectored(cx, &parts)
    }

    fn advance(&mut self, written: usize) {
        let of_bytes = written.min(self.bytes.len() - self.written);
        let of_large = (written - of_bytes).min(self.large.len());
        self.written += of_bytes;
        self.large.advance(of_large);
        self.end = &self.end[written - of_bytes - of_large..];
        if self.is_empty() {
            let mut spare = std::mem::take(&mut self.bytes);
            spare.clear();
            self.written = 0;
            self.large = Bytes::new();
            if (1..=MOST_SPARE).contains(&spare.capacity()) {
                SPARE.set(spare);
            }
        } else if self.written >= ENOUGH.max(self.bytes.len() / 2) {
            // A client that never catches up would make the buffer hold all that it was sent.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
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

/// The line before a chunk's data: its size in hexadecimal digits.
fn write_size(size: usize, wire: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        wire.push(DIGITS[size >> (4 * digit) & 0xf]);
    }
    wire.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn outbox() -> Outbox {
        Outbox::new(Some(TIMEOUT))
    }

    async fn write(outbox: &mut Outbox, io: &mut DuplexStream) -> io::Result<()> {
        poll_fn(|cx| outbox.poll_write(io, cx)).await
    }

    /// What leaves through a pipe that takes a few bytes at a time.
    async fn wire(mut outbox: Outbox) -> Vec<u8> {
        let (mut ours, mut theirs) = tokio::io::duplex(7);
        let sent = async move {
            write(&mut outbox, &mut ours).await.unwrap();
            assert!(outbox.is_empty() && !outbox.is_full());
        };
        let mut seen = Vec::new();
        let (_, read) = tokio::join!(sent, theirs.read_to_end(&mut seen));
        read.unwrap();
        seen
    }

    #[tokio::test]
    async fn lines_that_came_together_are_a_chunk_each() {
        let mut outbox = outbox();
        outbox.put_lines(b"{}\n{\"a\":1}\n{\"b");
        assert_eq!(
            wire(outbox).await,
            b"3\r\n{}\n\r\n8\r\n{\"a\":1}\n\r\n3\r\n{\"b\r\n"
        );
    }

    #[tokio::test]
    async fn a_chunk_has_its_size_in_hexadecimal_digits() {
        for size in [1, 15, 16, 255, 256, 4095, LARGE - 1, LARGE, 0x12345] {
            let mut outbox = outbox();
            outbox.put_chunk(Bytes::from(vec![b'x'; size]));
            outbox.put_chunk(Bytes::new());
            let expected = format!("{size:x}\r\n{}\r\n", "x".repeat(size));
            assert_eq!(wire(outbox).await, expected.as_bytes(), "{size}");
        }
    }

    #[tokio::test]
    async fn what_is_large_follows_what_was_put_in_before() {
        let mut outbox = outbox();
        outbox.buffer().extend_from_slice(b"head");
        outbox.put(Bytes::from(vec![b'x'; LARGE]));
        assert!(outbox.is_full());
        let seen = wire(outbox).await;
        assert!(seen.starts_with(b"headxxx") && seen.len() == LARGE + 4);
    }

    #[tokio::test]
    async fn the_last_chunk_follows_a_large_one() {
        for size in [3, LARGE] {
            let mut outbox = outbox();
            outbox.put_chunk(Bytes::from(vec![b'x'; size]));
            outbox.put_last_chunk();
            let expected = format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
            assert_eq!(wire(outbox).await, expected.as_bytes(), "{size}");
        }
    }

    #[test]
    fn a_client_that_never_catches_up_makes_no_buffer_grow() {
        let mut outbox = outbox();
        for _ in 0..1000 {
            outbox.put_lines(&[b'x'; LARGE]);
            // All but a byte has left.
            let waiting = outbox.bytes.len() - outbox.written;
            outbox.advance(waiting - 1);
            assert!(outbox.bytes.len() < 3 * ENOUGH, "{}", outbox.bytes.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stays_pending_fails_when_the_time_is_over() {
        let (mut ours, _theirs) = tokio::io::duplex(8);
        let mut outbox = outbox();
        outbox.put(Bytes::from_static(&[0; 9]));
        let start = Instant::now();
        let error = write(&mut outbox, &mut ours).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn every_byte_taken_starts_the_clock_anew() {
        let (mut ours, mut theirs) = tokio::io::duplex(8);
        let mut outbox = outbox();
        outbox.put(Bytes::from_static(&[0; 28]));
        let reader = async {
            for _ in 0..20 {
                tokio::time::sleep(TIMEOUT - Duration::from_secs(1)).await;
                theirs.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(write(&mut outbox, &mut ours), reader);
        written.unwrap();
    }
}
