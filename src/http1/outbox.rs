//! What waits to be written to a socket.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use memchr::memchr;
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

/// A piece of so many bytes is written from where it lies; a smaller one is cheaper to copy than
/// to point at.
const LARGE: usize = 16 * 1024;

/// So many pieces are written at once.
const MOST_PIECES: usize = 16;

/// A buffer that has grown beyond this is not kept.
const MOST_SPARE: usize = 256 * 1024;

/// Written bytes are given up when they are as many, and half of all.
const MOST_WRITTEN: usize = 64 * 1024;

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
    pieces: VecDeque<Bytes>,
    /// What follows those.
    end: &'static [u8],
}

impl Outbox {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        let of_pieces: usize = self.pieces.iter().map(Bytes::len).sum();
        self.bytes.len() - self.written + of_pieces + self.end.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == self.written && self.pieces.is_empty() && self.end.is_empty()
    }

    /// Whether what waits is to leave before more is put in: it is `enough`, or nothing can follow it.
    pub(crate) fn is_full(&self, enough: usize) -> bool {
        !self.end.is_empty() || self.pieces.len() >= MOST_PIECES || self.len() >= enough
    }

    /// Where heads and other small things are written. Not behind a large piece: that leaves after
    /// what is here.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.pieces.is_empty() && self.end.is_empty());
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        &mut self.bytes
    }

    /// Puts in what has no framing.
    pub(crate) fn put(&mut self, data: Bytes) {
        self.put_before(data, b"");
    }

    /// Puts in a chunk (RFC 9112 7.1), which is not empty.
    pub(crate) fn put_chunk(&mut self, data: Bytes) {
        write_size(data.len(), self.buffer());
        self.put_before(data, b"\r\n");
    }

    /// Puts in the last chunk, behind all that waits.
    pub(crate) fn put_last_chunk(&mut self) {
        match self.pieces.is_empty() {
            true => self.buffer().extend_from_slice(b"0\r\n\r\n"),
            // The end of the large chunk, of which nothing has left, and the last one in one piece.
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
        if data.len() >= LARGE || !self.pieces.is_empty() {
            self.pieces.push_back(data);
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
        if self.pieces.is_empty() && self.end.is_empty() {
            return Pin::new(io).poll_write(cx, bytes);
        }
        let pieces = self.pieces.iter().map(|piece| &piece[..]);
        let parts = std::iter::once(bytes).chain(pieces).chain([self.end]);
        let parts: SmallVec<[IoSlice<'_>; MOST_PIECES + 2]> = parts.map(IoSlice::new).collect();
        Pin::new(io).poll_write_vectored(cx, &parts)
    }

    fn advance(&mut self, mut written: usize) {
        let of_bytes = written.min(self.bytes.len() - self.written);
        self.written += of_bytes;
        self.give_back();
        written -= of_bytes;
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                return piece.advance(written);
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        self.end = &self.end[written..];
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }

    /// Gives the buffer back when all of it has left.
    fn give_back(&mut self) {
        if self.written == self.bytes.len() {
            let mut spare = std::mem::take(&mut self.bytes);
            spare.clear();
            self.written = 0;
            if (1..=MOST_SPARE).contains(&spare.capacity()) {
                SPARE.set(spare);
            }
        } else if self.written >= MOST_WRITTEN.max(self.bytes.len() / 2) {
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
            assert!(outbox.is_empty() && !outbox.is_full(1));
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
            let expected = format!("{size:x}\r\n{}\r\n", "x".repeat(size));
            assert_eq!(wire(outbox).await, expected.as_bytes(), "{size}");
        }
    }

    #[tokio::test]
    async fn what_is_large_follows_what_was_put_in_before() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(b"head");
        outbox.put(Bytes::from(vec![b'x'; LARGE]));
        outbox.put(Bytes::from_static(b"end"));
        let seen = wire(outbox).await;
        assert!(seen.starts_with(b"headxxx") && seen.ends_with(b"xxxend"));
        assert_eq!(seen.len(), 4 + LARGE + 3);
    }

    #[test]
    fn nothing_is_put_in_behind_so_many_pieces_or_the_end_of_a_large_one() {
        let mut outbox = Outbox::default();
        for nth in 0..MOST_PIECES {
            assert!(!outbox.is_full(usize::MAX), "{nth}");
            outbox.put(Bytes::from(vec![b'x'; LARGE]));
        }
        assert!(outbox.is_full(usize::MAX));
        let mut outbox = Outbox::default();
        outbox.put_chunk(Bytes::from(vec![b'x'; LARGE]));
        assert!(outbox.is_full(usize::MAX));
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

    /// Takes so many bytes at a time, from however many pieces.
    struct Sip(usize, Vec<u8>);

    impl AsyncWrite for Sip {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            let taken = all.len().min(self.0);
            self.1.extend_from_slice(&all[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn pieces_leave_in_their_order_whatever_a_write_takes() {
        let mut expected = b"head".to_vec();
        for nth in b'a'..b'd' {
            expected.extend([nth; LARGE]);
        }
        expected.extend_from_slice(b"end");
        for size in [LARGE - 1, LARGE, LARGE + 4, 2 * LARGE + 5, expected.len()] {
            let mut outbox = Outbox::default();
            outbox.buffer().extend_from_slice(b"head");
            for nth in b'a'..b'd' {
                outbox.put(Bytes::from(vec![nth; LARGE]));
            }
            outbox.put(Bytes::from_static(b"end"));
            assert_eq!(outbox.len(), expected.len());
            let mut sip = Sip(size, Vec::new());
            poll_fn(|cx| outbox.poll_write(&mut sip, cx)).await.unwrap();
            assert!(sip.1 == expected, "{size} at a time");
        }
    }

    #[tokio::test]
    async fn the_buffer_is_given_back_though_a_large_piece_is_on_its_way() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(b"head");
        outbox.put(Bytes::from(vec![b'x'; LARGE]));
        outbox.advance(5);
        assert_eq!((outbox.bytes.capacity(), outbox.len()), (0, LARGE - 1));
    }

    #[test]
    fn a_reader_that_never_catches_up_makes_no_buffer_grow() {
        let mut outbox = Outbox::default();
        for _ in 0..1000 {
            outbox.put_lines(&[b'x'; LARGE]);
            // All but a byte has left.
            let waiting = outbox.bytes.len() - outbox.written;
            outbox.advance(waiting - 1);
            assert!(
                outbox.bytes.len() < 3 * MOST_WRITTEN,
                "{}",
                outbox.bytes.len()
            );
        }
    }
}
