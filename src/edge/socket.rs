//! A client's connection below hyper: sniffs request lines, and drops hyper's own refusals.

use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::request_line::{LONGEST_LINE, has_whole_line, malformed_line};
use super::state::{ConnectionState, Phase};

/// A client's connection, with what only this edge needs: a look at each request line, which hyper
/// parses less strictly, and no response to a head that hyper cannot parse, because hyper's has no
/// text. The connection sends one with a text.
#[derive(Debug)]
pub(super) struct EdgeSocket<IO> {
    socket: IO,
    state: Arc<ConnectionState>,
    /// The beginning of a request line that arrived in pieces.
    line: Vec<u8>,
}

impl<IO> EdgeSocket<IO> {
    /// The state must be that of the connection of this socket.
    pub(super) fn new(socket: IO, state: Arc<ConnectionState>) -> Self {
        Self {
            socket,
            state,
            line: Vec::new(),
        }
    }

    pub(super) fn into_inner(self) -> IO {
        self.socket
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

impl<IO: AsyncRead + Unpin> AsyncRead for EdgeSocket<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_ready() && buf.filled().len() > before {
            self.has_read(&buf.filled()[before..]);
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for EdgeSocket<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(dropped) = self.dropped(buf.len()) {
            return Poll::Ready(Ok(dropped));
        }
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(dropped) = self.dropped(bufs.iter().map(|buf| buf.len()).sum()) {
            return Poll::Ready(Ok(dropped));
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A request's own body is not read ahead.
        let is_answering = self.state.phase().1 == Phase::Exchange && !self.state.is_body_open();
        self.state.socket.set_answering(is_answering);
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.set_shut_down(true);
        if self.state.has_refused() {
            // The refusal's response is sent first.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
