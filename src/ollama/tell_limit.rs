//! Tells a client that the gateway has limited the tokens of its response.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderName, HeaderValue, Request, Response};
use llamatower_layers::Record;
use llamatower_layers::llm_request::LimitedOutput;
use pin_project_lite::pin_project;
use tower::Service;

/// The response header with the maximum of tokens that a request got in place of its own limit, or
/// because it had none.
pub const MAX_OUTPUT_TOKENS_HEADER: HeaderName =
    HeaderName::from_static("x-llamatower-max-output-tokens");

/// Names the maximum in the response and in the line of the access log, if the request was
/// changed.
#[derive(Clone, Debug)]
pub struct TellLimit<S> {
    inner: S,
}

impl<S> TellLimit<S> {
    /// The service around `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<Request<B>> for TellLimit<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = TellLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = request.extensions().get::<LimitedOutput>().copied();
        if let Some(limit) = limit {
            Record::update_in(request.extensions(), |outcome| {
                outcome.extensions.insert(limit);
            });
        }
        TellLimitFuture {
            inner: self.inner.call(request),
            limit,
        }
    }
}

pin_project! {
    /// The future of [`TellLimit`].
    #[derive(Debug)]
    pub struct TellLimitFuture<F> {
        #[pin]
        inner: F,
        limit: Option<LimitedOutput>,
    }
}

impl<F, R, E> Future for TellLimitFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx));
        if let (Ok(answer), Some(LimitedOutput(tokens))) = (&mut answer, this.limit.take()) {
            let headers = answer.headers_mut();
            headers.insert(MAX_OUTPUT_TOKENS_HEADER, HeaderValue::from(tokens));
        }
        Poll::Ready(answer)
    }
}
