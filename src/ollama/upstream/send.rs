//! A request on its way out: its head, and its body as it comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, request};
use http_body::Body;
use llamatower_layers::BoxError;
use smallvec::SmallVec;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::head::encode;

/// So many pieces are written at once, and no more of the body is asked for until they are.
const MAX_PIECES: usize = 16;

/// A request that has not been written to its end.
pub(super) struct Sending<B> {
    body: Option<Pin<Box<B>>>,
    framing: Framing,
    head: Vec<u8>,
    /// How much of the head was written.
    head_written: usize,
    pieces: SmallVec<[Bytes; 4]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are still owed.
    Length(u64),
    Chunked,
}

/// Why a request could not be written.
pub(super) enum SendError {
    /// The connection failed.
    Connection(io::Error),
    /// The body did: whoever made it knows what that means.
    Body(BoxError),
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Sets the framing in the head, by what the body says of itself (RFC 9112 6.3).
    pub(super) fn new(head: &mut request::Parts, body: B) -> Self {
        let framing = frame(head, &body);
        let body = (!body.is_end_stream()).then(|| Box::pin(body));
        Self {
            body,
            framing,
            head: encode(head),
            head_written: 0,
            pieces: SmallVec::new(),
        }
    }

    /// Whether a byte of it may have reached the server.
    pub(super) fn has_begun(&self) -> bool {
        self.head_written > 0
    }

    /// Writes as much as the connection takes; ready when all is written.
    pub(super) fn poll(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            self.poll_pieces(cx).map_err(SendError::Body)?;
            if self.pieces.is_empty() && self.head_written == self.head.len() {
                return match self.body {
                    Some(_) => Poll::Pending,
                    None => Poll::Ready(Ok(())),
                };
            }
            let written = ready!(self.poll_write(stream, cx)).map_err(SendError::Connection)?;
            if written == 0 {
                let closed = io::Error::from(io::ErrorKind::WriteZero);
                return Poll::Ready(Err(SendError::Connection(closed)));
            }
            self.advance(written);
        }
    }

    /// Takes from the body what it has.
    fn poll_pieces(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        while let Some(body) = self
            .body
            .as_mut()
            .filter(|_| self.pieces.len() < MAX_PIECES)
        {
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => {
                    let is_end = body.is_end_stream();
                    if let Ok(data) = frame.into_data() {
                        self.push(data)?;
                    }
                    if is_end {
                        self.end()?;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(error.into()),
                Poll::Ready(None) => self.end()?,
            }
        }
        Ok(())
    }

    fn push(&mut self, data: Bytes) -> Result<(), BoxError> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Length(owed) => match owed.checked_sub(data.len() as u64) {
                Some(left) => *owed = left,
                None => return Err("the body of the request is longer than was said".into()),
            },
            Framing::Chunked => {
                let size = format!("{:x}\r\n", data.len());
                self.pieces.push(Bytes::from(size));
            }
        }
        self.pieces.push(data);
        if self.framing == Framing::Chunked {
            self.pieces.push(Bytes::from_static(b"\r\n"));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxError> {
        self.body = None;
        match self.framing {
            Framing::Length(0) => {}
            Framing::Length(_) => {
                return Err("the body of the request is shorter than was said".into());
            }
            Framing::Chunked => self.pieces.push(Bytes::from_static(b"0\r\n\r\n")),
        }
        Ok(())
    }

    fn poll_write(&self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let pieces = self.pieces.iter().map(|piece| &piece[..]);
        let parts = std::iter::once(&self.head[self.head_written..]).chain(pieces);
        let slices: SmallVec<[IoSlice<'_>; 4]> = parts
            .filter(|part| !part.is_empty())
            .take(MAX_PIECES)
            .map(IoSlice::new)
            .collect();
        Pin::new(stream).poll_write_vectored(cx, &slices)
    }

    fn advance(&mut self, mut written: usize) {
        let of_head = written.min(self.head.len() - self.head_written);
        self.head_written += of_head;
        written -= of_head;
        while let Some(piece) = self.pieces.first_mut() {
            if written < piece.len() {
                return piece.advance(written);
            }
            written -= piece.len();
            self.pieces.remove(0);
        }
    }
}

fn frame<B: Body>(head: &mut request::Parts, body: &B) -> Framing {
    head.headers.remove(TRANSFER_ENCODING);
    let said = head.headers.get(CONTENT_LENGTH);
    let said = said.and_then(|value| value.to_str().ok()?.parse().ok());
    let known = body.size_hint().exact();
    match known.or(said) {
        Some(length) => {
            let is_without = length == 0 && said.is_none() && !expects_a_body(&head.method);
            if !is_without && said != Some(length) {
                head.headers
                    .insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Framing::Length(length)
        }
        None if body.is_end_stream() => Framing::Length(0),
        None => {
            let chunked = HeaderValue::from_static("chunked");
            head.headers.insert(TRANSFER_ENCODING, chunked);
            Framing::Chunked
        }
    }
}

/// A server waits for the body of such a request, or for the word that there is none (RFC 9110
/// 8.6).
fn expects_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}
