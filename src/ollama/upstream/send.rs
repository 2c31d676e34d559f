//! A request on its way out: its head, and its body as it comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, request};
use http_body::Body;
use llamatower_layers::BoxError;
use tokio::net::TcpStream;

use super::head::write_head;
use crate::http1::encode::{Encoder, WrongLength};
use crate::http1::fields::settled_length;
use crate::http1::outbox::Outbox;

/// While so many bytes wait, no more of the body is asked for.
const ENOUGH: usize = 256 * 1024;

const WRONG_LENGTH: &str = "the body of the request is not as long as its head says";

/// A request that has not been written to its end.
pub(super) struct Sending<B> {
    /// `None` once it has come to its end.
    body: Option<Pin<Box<B>>>,
    encoder: Encoder,
    outbox: Outbox,
    has_begun: bool,
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
        let encoder = frame(head, &body);
        let mut outbox = Outbox::default();
        write_head(head, outbox.buffer());
        Self {
            body: (!body.is_end_stream()).then(|| Box::pin(body)),
            encoder,
            outbox,
            has_begun: false,
        }
    }

    /// Whether a byte of it may have reached the server.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Writes as much as the connection takes; ready when all is written.
    pub(super) fn poll(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            self.take_from_body(cx).map_err(SendError::Body)?;
            if self.outbox.is_empty() {
                return match self.body {
                    Some(_) => Poll::Pending,
                    None => Poll::Ready(Ok(())),
                };
            }
            let before = self.outbox.len();
            let written = self.outbox.poll_write(stream, cx);
            self.has_begun |= self.outbox.len() < before;
            ready!(written).map_err(SendError::Connection)?;
        }
    }

    /// Takes from the body what it has, and what there is room for.
    fn take_from_body(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        while let Some(body) = self.body.as_mut().filter(|_| !self.outbox.is_full(ENOUGH)) {
            let is_at_end = match body.as_mut().poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(frame)) => {
                    if let Ok(data) = frame.map_err(Into::into)?.into_data() {
                        let put = self.encoder.put(data, &mut self.outbox);
                        put.map_err(|WrongLength| WRONG_LENGTH)?;
                    }
                    body.is_end_stream()
                }
                Poll::Ready(None) => true,
            };
            if is_at_end {
                self.body = None;
                let end = self.encoder.end(&mut self.outbox);
                end.map_err(|WrongLength| WRONG_LENGTH)?;
            }
        }
        Ok(())
    }
}

fn frame<B: Body>(head: &mut request::Parts, body: &B) -> Encoder {
    head.headers.remove(TRANSFER_ENCODING);
    let said = settled_length(&mut head.headers);
    let known = body.size_hint().exact();
    match known.or(said) {
        Some(length) => {
            let is_without = length == 0 && said.is_none() && !expects_a_body(&head.method);
            if !is_without && said != Some(length) {
                head.headers
                    .insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Encoder::Length(length)
        }
        None if body.is_end_stream() => Encoder::Length(0),
        None => {
            let chunked = HeaderValue::from_static("chunked");
            head.headers.insert(TRANSFER_ENCODING, chunked);
            Encoder::Chunked
        }
    }
}

/// A server waits for the body of such a request, or for the word that there is none (RFC 9110
/// 8.6).
fn expects_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}
