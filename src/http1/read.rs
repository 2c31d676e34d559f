//! Bytes from a socket.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// What one call to the kernel reads at most.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// All connections of a thread read into the same memory, of which each keeps a copy of what
    /// is its own. A stream that waits holds no buffer, and the memory is warm.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Reads once, and hands what has come to `take`; nothing at the end of the stream.
pub(crate) fn poll_read<T>(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    poll_read_at_most(READ_BYTES, stream, cx, take)
}

/// The same, of so many bytes at most.
pub(crate) fn poll_read_at_most<T>(
    bytes: usize,
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(&mut scratch[..bytes.min(READ_BYTES)]);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(buffer.filled())))
    })
}
