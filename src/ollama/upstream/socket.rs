//! A backend's socket below hyper.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use llamatower_layers::BoxError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Connector;
use super::state::ConnectionState;

type Dialing = Pin<Box<dyn Future<Output = Result<TcpStream, BoxError>> + Send>>;

/// A backend's socket, with two reactions to a failed write.
///
/// If the connection was pooled and no byte of the request was sent, a new connection replaces it.
/// The backend had closed the old one and cannot have started a request that it has not received,
/// so this is safe for any request. Otherwise the write stays pending and reading continues,
/// because a backend may respond before it has read the whole request, and close.
pub(super) struct BackendSocket {
    stream: TcpStream,
    connector: Connector,
    dialing: Option<Dialing>,
    state: Arc<ConnectionState>,
    failed: Option<io::Error>,
}

impl BackendSocket {
    pub(super) fn new(
        stream: TcpStream,
        connector: Connector,
        state: Arc<ConnectionState>,
    ) -> Self {
        Self {
            stream,
            connector,
            dialing: None,
            state,
            failed: None,
        }
    }

    /// Waits for a connection that is being opened, if there is one.
    fn poll_dialed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(dialing) = &mut self.dialing else {
            return Poll::Ready(Ok(()));
        };
        let dialed = ready!(dialing.as_mut().poll(cx));
        self.dialing = None;
        Poll::Ready(match dialed {
            Ok(stream) => {
                self.stream = stream;
                Ok(())
            }
            Err(error) => {
                self.state.note_dial_error(error);
                Err(io::ErrorKind::NotConnected.into())
            }
        })
    }

    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.failed.is_some() {
                return Poll::Pending;
            }
            ready!(self.poll_dialed(cx))?;
            match ready!(write(Pin::new(&mut self.stream), cx)) {
                Ok(length) => {
                    self.state.take_unsent();
                    return Poll::Ready(Ok(length));
                }
                Err(_) if self.state.take_unsent() => {
                    let connector = self.connector.clone();
                    self.dialing = Some(Box::pin(async move { connector.connect().await }));
                }
                Err(error) => {
                    self.failed = Some(error);
                    cx.waker().wake_by_ref();
                }
            }
        }
    }
}

impl AsyncRead for BackendSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_dialed(cx))?;
        let before = buf.filled().len();
        match ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
            Ok(()) if buf.filled().len() > before => Poll::Ready(Ok(())),
            read => Poll::Ready(self.failed.take().map_or(read, Err)),
        }
    }
}

impl AsyncWrite for BackendSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for BackendSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendSocket")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
