//! The body of an answer, which drives its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use llamatower_layers::{BoxError, Failure};

use super::error::AnswerBroken;
use super::link::Link;
use super::pool::Pool;

/// The body of a backend's answer. Read to its end, it returns its connection to the pool;
/// dropped before, it closes it, so that Ollama stops working for a client that has gone.
#[derive(Debug)]
pub struct UpstreamBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    incoming: Incoming,
    link: Option<Link<B>>,
    pool: Arc<Pool<B>>,
}

impl<B> UpstreamBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(incoming: Incoming, link: Link<B>, pool: Arc<Pool<B>>) -> Self {
        Self {
            incoming,
            link: Some(link),
            pool,
        }
    }

    /// What the connection has read already, or what it reads when it is moved on.
    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let Some(link) = &mut self.link else {
            return Poll::Pending;
        };
        if link.poll(cx).is_ready() {
            self.link = None;
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn give_back(&mut self) {
        if let Some(link) = self.link.take() {
            self.pool.check_in(link);
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
        let frame = match this.poll_incoming(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return Poll::Pending,
        };
        match &frame {
            Some(Err(_)) => this.link = None,
            None => this.give_back(),
            Some(Ok(_)) if this.incoming.is_end_stream() => this.give_back(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                Failure::from(AnswerBroken::new(this.pool.address(), error)).into()
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl<B> Drop for UpstreamBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// hyper drops a body that is at its end without polling it again.
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}
