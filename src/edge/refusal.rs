//! Answers for connections on which there is no valid request.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::listener::Stream;

/// Bytes that are read and discarded after the last answer of a connection.
pub(super) const DISCARD_BYTES: usize = 1024 * 1024;
/// How long they are waited for.
pub(super) const DISCARD_TIME: Duration = Duration::from_secs(2);

/// An answer to a connection, and not to a request: there is none, or what came is none. hyper has no
/// part in it. Its text says which limit was reached and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There are as many connections as there may be.
    TooManyConnections,
    /// The head did not come in time.
    HeadTimeout,
    /// The head is larger than it may be.
    HeadTooLarge,
    /// What came is no head of HTTP/1.
    Malformed,
}

impl Refusal {
    pub(super) fn status(self) -> u16 {
        match self {
            Self::TooManyConnections => 503,
            Self::HeadTimeout => 408,
            Self::HeadTooLarge => 431,
            Self::Malformed => 400,
        }
    }

    pub(super) fn text(self) -> &'static str {
        self.line_and_text().1
    }

    fn line_and_text(self) -> (&'static str, &'static str) {
        match self {
            Self::TooManyConnections => (
                "503 Service Unavailable\r\nRetry-After: 1",
                "too many connections",
            ),
            Self::HeadTimeout => (
                "408 Request Timeout",
                "the head of the request did not arrive in time",
            ),
            Self::HeadTooLarge => (
                "431 Request Header Fields Too Large",
                "the head of the request has too many bytes or fields; LLAMATOWER_MAX_HEAD_BYTES and \
                 LLAMATOWER_MAX_HEAD_FIELDS set the limits",
            ),
            Self::Malformed => (
                "400 Bad Request",
                "what was sent is no request of HTTP/1.0 or HTTP/1.1",
            ),
        }
    }

    /// Says it to the client, and closes.
    pub(super) async fn tell(self, mut stream: Stream) {
        let (line, text) = self.line_and_text();
        let length = text.len() + "{\"error\":\"\"}\n".len();
        let answer = format!(
            "HTTP/1.1 {line}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{{\"error\":\"{text}\"}}\n"
        );
        // The few bytes go into the send buffer in one piece, if it has room.
        let write = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, answer.as_bytes()));
        if let Ok(Ok(_)) = tokio::time::timeout(DISCARD_TIME, write).await {
            linger(stream).await;
        }
    }
}

/// Closes a socket on which bytes may arrive that are not wanted. Closed outright, the kernel
/// would answer them with a reset, and the reset can destroy an answer that the client has not
/// read yet. So: the end of our side first, then reading for a while, then the close.
pub(super) async fn linger(mut stream: Stream) {
    let end = poll_fn(move |cx| {
        let mut stream = Pin::new(&mut stream);
        if ready!(stream.as_mut().poll_shutdown(cx)).is_err() {
            return std::task::Poll::Ready(());
        }
        let mut discarded = 0;
        let mut piece = [std::mem::MaybeUninit::uninit(); 8 * 1024];
        while discarded < DISCARD_BYTES {
            let mut piece = ReadBuf::uninit(&mut piece);
            match ready!(stream.as_mut().poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => discarded += piece.filled().len(),
                _ => return std::task::Poll::Ready(()),
            }
        }
        // A client that still sends is held by its window until the time is over.
        std::task::Poll::Pending
    });
    let _ = tokio::time::timeout(DISCARD_TIME, end).await;
}
