//! A response with one more header.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;

pin_project! {
    /// The future of a response that gets a header, if one is given.
    #[derive(Debug)]
    pub struct WithHeader<F> {
        #[pin]
        inner: F,
        name: &'static HeaderName,
        value: Option<HeaderValue>,
    }
}

impl<F> WithHeader<F> {
    pub(super) fn new(inner: F, name: &'static HeaderName, value: Option<HeaderValue>) -> Self {
        Self { inner, name, value }
    }
}

impl<F, R, E> Future for WithHeader<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx));
        if let (Ok(answer), Some(value)) = (&mut answer, this.value.take()) {
            answer.headers_mut().insert(this.name.clone(), value);
        }
        Poll::Ready(answer)
    }
}
