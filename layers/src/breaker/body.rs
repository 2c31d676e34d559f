//! The response body; at its end the request's result is known.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Token;
use super::layer::FailureRule;
use crate::BoxError;
use crate::body::RemainingLength;
use crate::classify::classify;

pin_project! {
    /// A body whose end settles the request's token. If it is dropped earlier, the request does not
    /// count.
    #[derive(Debug, Default)]
    pub struct BreakerBody<B> {
        #[pin]
        inner: B,
        rest: RemainingLength,
        token: Option<Token>,
        // `None` in a default body only.
        rule: Option<Arc<FailureRule>>,
    }
}

impl<B: Body> BreakerBody<B> {
    pub(super) fn new(
        inner: B,
        headers: &HeaderMap,
        token: Option<Token>,
        rule: Arc<FailureRule>,
    ) -> Self {
        let mut body = Self {
            rest: RemainingLength::of(headers, &inner),
            inner,
            token,
            rule: Some(rule),
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
                this.rest.count(&frame);
                let is_last = frame.is_trailers() || this.rest.is_over();
                if is_last || this.inner.is_end_stream() {
                    succeed(this.token);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error = classify(error);
                if let (Some(token), Some(rule)) = (this.token.take(), this.rule)
                    && rule.is_failure(&error)
                {
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
