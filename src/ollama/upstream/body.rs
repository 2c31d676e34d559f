//! The body of an answer, which drives its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use llamatower_layers::frames::Framing;
use llamatower_layers::{BoxError, Failure};

use super::connection::Connection;
use super::error::AnswerBroken;
use super::pool::Pool;

/// Lines that are ready together are joined up to this many bytes.
const MOST_JOINED: usize = 64 * 1024;

/// The body of a backend's answer. Read to its end, it returns its connection to the pool;
/// dropped before, it closes it, so that Ollama stops working for a client that has gone.
#[derive(Debug)]
pub struct UpstreamBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    incoming: Incoming,
    connection: Option<Connection<B>>,
    pool: Arc<Pool<B>>,
    /// Lines tell by themselves where they end: those that came together are one frame. Other
    /// chunks stay what they were, since some clients take a chunk for an event.
    is_lines: bool,
    /// What came behind lines that were joined.
    next: Option<Received>,
}

type Received = Option<Result<Frame<Bytes>, hyper::Error>>;

impl<B> UpstreamBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        incoming: Incoming,
        headers: &HeaderMap,
        connection: Connection<B>,
        pool: Arc<Pool<B>>,
    ) -> Self {
        let mut body = Self {
            is_lines: Framing::of(headers) == Some(Framing::Ndjson),
            incoming,
            connection: Some(connection),
            pool,
            next: None,
        };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(next);
        }
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(None);
        };
        let received = ready!(connection.poll_frame(&mut self.incoming, cx));
        match &received {
            Some(Err(_)) => self.connection = None,
            Some(Ok(_)) if !self.incoming.is_end_stream() => {}
            Some(Ok(_)) | None => self.give_back(),
        }
        Poll::Ready(received)
    }

    /// Joins the lines that are ready behind `first`.
    fn join(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut joined = BytesMut::new();
        while first.len().max(joined.len()) < MOST_JOINED
            && let Poll::Ready(received) = self.poll_received(cx)
        {
            match received.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    if joined.is_empty() {
                        joined.extend_from_slice(&first);
                    }
                    joined.extend_from_slice(&data);
                    continue;
                }
                Some(Ok(Err(other))) => self.next = Some(Some(Ok(other))),
                Some(Err(error)) => self.next = Some(Some(Err(error))),
                None => self.next = Some(None),
            }
            break;
        }
        match joined.is_empty() {
            true => first,
            false => joined.freeze(),
        }
    }

    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.check_in(connection);
        }
    }
}

impl<B> Body for UpstreamBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let broken =
            |error, pool: &Pool<B>| Failure::from(AnswerBroken::new(pool.address(), error)).into();
        Poll::Ready(match ready!(this.poll_received(cx)) {
            None => None,
            Some(Err(error)) => Some(Err(broken(error, &this.pool))),
            Some(Ok(frame)) if !this.is_lines => Some(Ok(frame)),
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(data) => Frame::data(this.join(data, cx)),
                Err(other) => other,
            })),
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.next {
            Some(next) => next.is_none(),
            None => self.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
