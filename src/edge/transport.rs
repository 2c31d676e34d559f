//! What hyper reads and writes: a client's socket, or TLS on it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use llamatower_edge::ClientSocket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::listener::Stream;

/// A client's socket, or TLS on it. Boxed only with TLS, so that a plain connection costs no more than
/// the branch.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(ClientSocket<Stream>),
    Tls(Box<TlsStream<ClientSocket<Stream>>>),
}

impl Transport {
    /// The socket itself.
    pub(super) fn stream(&self) -> &Stream {
        match self {
            Self::Plain(socket) => socket.get_ref(),
            Self::Tls(tls) => tls.get_ref().0.get_ref(),
        }
    }

    /// Closes an idle connection: with TLS the client is told that nothing more comes, as far as the
    /// socket takes it at once.
    pub(super) fn close_idle(mut self) {
        if let Self::Tls(tls) = &mut self {
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            let _ = Pin::new(tls).poll_shutdown(cx);
        }
    }
}

/// Calls a method of whichever it is.
macro_rules! either {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Plain($io) => {
                let $io = Pin::new($io);
                $call
            }
            Transport::Tls($io) => {
                let $io = Pin::new(&mut **$io);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_shutdown(cx))
    }
}
