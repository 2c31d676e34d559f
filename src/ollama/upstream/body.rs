//! The body of an answer, which drives its connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::{BoxError, Failure};

use super::error::AnswerBroken;
use super::link::{Broken, Flow, Next};
use super::pool::Pool;

/// The body of a backend's answer. Read to its end, it returns its connection to the pool;
/// dropped before, it closes it, so that Ollama stops working for a client that has gone.
pub struct UpstreamBody<B> {
    /// `None` at the end.
    flow: Option<Box<Flow<B>>>,
    pool: Arc<Pool>,
}

impl<B> UpstreamBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(flow: Box<Flow<B>>, pool: Arc<Pool>) -> Self {
        let mut body = Self {
            flow: Some(flow),
            pool,
        };
        body.settle();
        body
    }

    /// Gives the connection back as soon as nothing more comes over it.
    fn settle(&mut self) {
        let Some(flow) = &mut self.flow else { return };
        if let Some(stream) = flow.take_idle() {
            self.pool.check_in(stream);
        }
    }

    /// Trailers, if there are any, and then nothing.
    fn end(&mut self) -> Option<Frame<Bytes>> {
        let trailers = self.flow.as_mut().and_then(|flow| flow.take_trailers());
        self.flow = None;
        trailers.map(Frame::trailers)
    }

    fn broken(&mut self, broken: Broken) -> BoxError {
        self.flow = None;
        match broken {
            Broken::Answer(error) => {
                Failure::from(AnswerBroken::new(self.pool.address(), error)).into()
            }
            Broken::Body(error) => error,
        }
    }
}

impl<B> Body for UpstreamBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(flow) = &mut this.flow else {
            return Poll::Ready(None);
        };
        let next = ready!(flow.poll(cx));
        this.settle();
        Poll::Ready(match next {
            Ok(Next::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Next::End) => this.end().map(Ok),
            Err(broken) => Some(Err(this.broken(broken))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.flow.as_ref().is_none_or(|flow| flow.is_at_end())
    }

    fn size_hint(&self) -> SizeHint {
        let left = match &self.flow {
            Some(flow) => flow.left(),
            None => Some(0),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl<B> fmt::Debug for UpstreamBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}
