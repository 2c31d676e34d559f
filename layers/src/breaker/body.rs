//! The answer until its end, where it is judged.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Token;
use super::layer::Judge;
use crate::BoxError;
use crate::body::Rest;

pin_project! {
    /// A body whose end settles the token of its request. Dropped before, it says nothing of the
    /// backend.
    #[derive(Debug)]
    pub struct BreakerBody<B> {
        #[pin]
        inner: B,
        rest: Rest,
        token: Option<Token>,
        judge: Arc<Judge>,
    }
}

impl<B: Body> BreakerBody<B> {
    pub(super) fn new(
        inner: B,
        headers: &HeaderMap,
        token: Option<Token>,
        judge: Arc<Judge>,
    ) -> Self {
        let mut body = Self {
            rest: Rest::of(headers, &inner),
            inner,
            token,
            judge,
        };
        if body.rest.is_over() || body.inner.is_end_stream() {
            succeed(&mut body.token);
        }
        body
    }
}

fn succeed(token: &mut Option<Token>) {
    if let Some(token) = token.take() {
        token.succeed();
    }
}

impl<B> Body for BreakerBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                this.rest.note(&frame);
                let is_last = frame.is_trailers() || this.rest.is_over();
                if is_last || this.inner.is_end_stream() {
                    succeed(this.token);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error = error.into();
                if let Some(token) = this.token.take().filter(|_| this.judge.is_failure(&error)) {
                    token.fail();
                }
                Some(Err(error))
            }
            None => {
                succeed(this.token);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
