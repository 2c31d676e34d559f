//! The body of a backend's response; polling it drives the connection.

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
use super::hop::Target;
use super::pool::Pool;
use super::{Address, AnswerBroken};

/// Limit in bytes for joining lines that are ready together. A client that reads slowly holds as
/// much, and hyper's copy of it.
const MOST_JOINED: usize = 8 * 1024;

/// Limit in bytes for copying a piece of a stream. A piece is a part of hyper's read buffer of 8 kB.
/// While anybody holds it, as the layers do that look at the last lines, hyper allocates another
/// buffer for the next one.
const MOST_COPIED: usize = 2 * 1024;

/// The body of a backend's response. At its end, the connection returns to the pool. If it is
/// dropped earlier, the connection is closed, so that Ollama stops working for a client that has
/// disconnected.
#[derive(Debug)]
pub struct UpstreamBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    source: Source<B>,
    /// Whether the body is a stream of lines. Lines that arrived together then become one frame.
    /// Other chunks keep their boundaries, because some clients take a chunk for an event.
    is_lines: bool,
    /// The frame that followed joined lines, or was too large to be joined with them.
    next: Option<Box<Received>>,
}

type Received = Option<Result<Frame<Bytes>, BoxError>>;

/// The source of the frames, for each kind of client.
#[derive(Debug)]
pub(super) enum Source<B: Body + 'static> {
    Plain {
        incoming: Incoming,
        connection: Option<Connection<B>>,
        pool: Arc<Pool<B>>,
    },
    Tls {
        body: reqwest::Body,
        target: Arc<Target>,
    },
}

impl<B> Source<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn plain(incoming: Incoming, connection: Connection<B>, pool: Arc<Pool<B>>) -> Self {
        let connection = match incoming.is_end_stream() {
            false => Some(connection),
            true => {
                pool.check_in(connection);
                None
            }
        };
        Self::Plain {
            incoming,
            connection,
            pool,
        }
    }

    pub(super) fn tls(body: reqwest::Body, target: Arc<Target>) -> Self {
        Self::Tls { body, target }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        match self {
            Self::Plain {
                incoming,
                connection: place,
                pool,
            } => {
                let Some(connection) = place else {
                    return Poll::Ready(None);
                };
                let received = match ready!(connection.poll_frame(incoming, cx)) {
                    Some(Ok(frame)) if !incoming.is_end_stream() => {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Some(Ok(frame)) => Some(Ok(frame)),
                    None => None,
                    Some(Err(error)) => {
                        *place = None;
                        Some(Err(broken(pool.address(), error)))
                    }
                };
                if let Some(connection) = place.take() {
                    pool.check_in(connection);
                }
                Poll::Ready(received)
            }
            Self::Tls { body, target } => {
                let received = ready!(Pin::new(body).poll_frame(cx));
                let broken = |error| broken(&target.address, reqwest::Error::without_url(error));
                Poll::Ready(received.map(|frame| frame.map_err(broken)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain { incoming, .. } => incoming.is_end_stream(),
            Self::Tls { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain { incoming, .. } => incoming.size_hint(),
            Self::Tls { body, .. } => body.size_hint(),
        }
    }
}

fn broken(address: &Address, error: impl Into<BoxError>) -> BoxError {
    Failure::from(AnswerBroken::new(address, error)).into()
}

impl<B> UpstreamBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(source: Source<B>, headers: &HeaderMap) -> Self {
        let is_open = source.size_hint().exact().is_none();
        Self {
            is_lines: is_open && Framing::of(headers) == Some(Framing::Ndjson),
            source,
            next: None,
        }
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        match self.next.take() {
            Some(next) => Poll::Ready(*next),
            None => self.source.poll_frame(cx),
        }
    }

    /// The same bytes in memory of their own, if more of the body follows.
    fn apart(&self, data: Bytes) -> Bytes {
        match data.len() <= MOST_COPIED && !self.is_end_stream() {
            true => Bytes::copy_from_slice(&data),
            false => data,
        }
    }

    /// Joins the lines that are ready after `first`.
    fn join(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut joined = BytesMut::new();
        while let room = MOST_JOINED.saturating_sub(first.len().max(joined.len()))
            && room > 0
            && let Poll::Ready(received) = self.poll_received(cx)
        {
            match received.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    if data.len() > room {
                        self.next = Some(Box::new(Some(Ok(Frame::data(data)))));
                        break;
                    }
                    if joined.is_empty() {
                        joined.extend_from_slice(&first);
                    }
                    joined.extend_from_slice(&data);
                    continue;
                }
                Some(Ok(Err(other))) => self.next = Some(Box::new(Some(Ok(other)))),
                Some(Err(error)) => self.next = Some(Box::new(Some(Err(error)))),
                None => self.next = Some(Box::new(None)),
            }
            break;
        }
        match joined.is_empty() {
            true => first,
            false => joined.freeze(),
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
        Poll::Ready(match ready!(this.poll_received(cx)) {
            Some(Ok(frame)) => Some(Ok(match (frame.into_data(), this.is_lines) {
                (Ok(data), true) => Frame::data(this.join(this.apart(data), cx)),
                (Ok(data), false) => Frame::data(this.apart(data)),
                (Err(other), _) => other,
            })),
            received => received,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.next {
            Some(next) => next.is_none(),
            None => self.source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}
