//! What waits to be written to a socket.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use memchr::memchr;
use tokio::io::AsyncWrite;

/// While so many bytes wait, no more of a body is asked for.
const ENOUGH: usize = 64 * 1024;

/// A piece of so many bytes is written from where it lies; a smaller one is cheaper to copy than
/// to point at.
const LARGE: usize = 16 * 1024;

/// A buffer that has grown beyond this is not kept.
const MOST_SPARE: usize = 4 * ENOUGH;

thread_local! {
    /// A buffer is taken from the thread while bytes wait, and given back after: a connection that
    /// has nothing to write holds none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes in the order in which they leave.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// How many of them have left.
    written: usize,
    /// What follows them and was not copied.
    large: Bytes,
    /// What follows that.
    end: &'static [u8],
}

impl Outbox {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written + self.large.len() + self.end.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what waits is to leave before more is put in.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() - self.written >= ENOUGH || !self.large.is_empty() || !self.end.is_empty()
    }

    /// Where heads and other small things are written. Not behind a large piece: that leaves after
    /// what is here.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.large.is_empty() && self.end.is_empty());
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        &mut self.bytes
    }

    /// Puts in what has no framing.
    pub(crate) fn put(&mut self, data: Bytes) {
        self.put_before(data, b"");
    }

    /// Puts in a chunk (RFC 9112 7.1). An empty one would be the last one, and is left out.
    pub(crate) fn put_chunk(&mut self, data: Bytes) {
        if !data.is_empty() {
            write_size(data.len(), self.buffer());
            self.put_before(data, b"\r\n");
        }
    }

    /// Puts in the last chunk, behind all that waits.
    pub(crate) fn put_last_chunk(&mut self) {
        match self.large.is_empty() && self.end.is_empty() {
            true => self.buffer().extend_from_slice(b"0\r\n\r\n"),
            // The end of the large chunk and the last one in one piece.
            false => self.end = b"\r\n0\r\n\r\n",
        }
    }

    /// Puts in each line as a chunk of its own. Ollama writes them so, and there are clients that
    /// take a chunk for a line. What is no whole line goes as it came: nobody waits for the rest.
    pub(crate) fn put_lines(&mut self, mut data: &[u8]) {
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
    /// The connection failed.
    pub(crate) fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match ready!(self.poll_write_once(io, cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
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
            // A reader that never catches up would make the buffer hold all that it was sent.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
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

    use tokio::io::AsyncReadExt;

    use super::*;

    /// What leaves through a pipe that takes a few bytes at a time.
    async fn wire(mut outbox: Outbox) -> Vec<u8> {
        let (mut ours, mut theirs) = tokio::io::duplex(7);
        let sent = async move {
            poll_fn(|cx| outbox.poll_write(&mut ours, cx))
                .await
                .unwrap();
            assert!(outbox.is_empty() && !outbox.is_full());
        };
        let mut seen = Vec::new();
        let (_, read) = tokio::join!(sent, theirs.read_to_end(&mut seen));
        read.unwrap();
        seen
    }

    #[tokio::test]
    async fn lines_that_came_together_are_a_chunk_each() {
        let mut outbox = Outbox::default();
        outbox.put_lines(b"{}\n{\"a\":1}\n{\"b");
        assert_eq!(
            wire(outbox).await,
            b"3\r\n{}\n\r\n8\r\n{\"a\":1}\n\r\n3\r\n{\"b\r\n"
        );
    }

    #[tokio::test]
    async fn a_chunk_has_its_size_in_hexadecimal_digits() {
        for size in [1, 15, 16, 255, 256, 4095, LARGE - 1, LARGE, 0x12345] {
            let mut outbox = Outbox::default();
            outbox.put_chunk(Bytes::from(vec![b'x'; size]));
            outbox.put_chunk(Bytes::new());
            let expected = format!("{size:x}\r\n{}\r\n", "x".repeat(size));
            assert_eq!(wire(outbox).await, expected.as_bytes(), "{size}");
        }
    }

    #[tokio::test]
    async fn what_is_large_follows_what_was_put_in_before() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(b"head");
        outbox.put(Bytes::from(vec![b'x'; LARGE]));
        assert!(outbox.is_full());
        let seen = wire(outbox).await;
        assert!(seen.starts_with(b"headxxx") && seen.len() == LARGE + 4);
    }

    #[tokio::test]
    async fn the_last_chunk_follows_a_large_one() {
        for size in [3, LARGE] {
            let mut outbox = Outbox::default();
            outbox.put_chunk(Bytes::from(vec![b'x'; size]));
            outbox.put_last_chunk();
            let expected = format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
            assert_eq!(wire(outbox).await, expected.as_bytes(), "{size}");
        }
    }

    #[test]
    fn a_reader_that_never_catches_up_makes_no_buffer_grow() {
        let mut outbox = Outbox::default();
        for _ in 0..1000 {
            outbox.put_lines(&[b'x'; LARGE]);
            // All but a byte has left.
            let waiting = outbox.bytes.len() - outbox.written;
            outbox.advance(waiting - 1);
            assert!(outbox.bytes.len() < 3 * ENOUGH, "{}", outbox.bytes.len());
        }
    }
}
