//! Tells a client that the gateway has limited the tokens of its response.

use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Request, Response};
use llamatower_layers::Record;
use llamatower_layers::llm_request::LimitedOutput;
use tower::Service;

use super::with_header::WithHeader;

/// The response header with the maximum of tokens that a request got in place of its own limit, or
/// because it had none.
pub static MAX_OUTPUT_TOKENS_HEADER: HeaderName =
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
    type Future = WithHeader<S::Future>;

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
        let value = limit.map(|LimitedOutput(tokens)| HeaderValue::from(tokens));
        WithHeader::new(self.inner.call(request), &MAX_OUTPUT_TOKENS_HEADER, value)
    }
}
