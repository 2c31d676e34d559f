//! The future of a request until the response head.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

use super::OutcomeBody;
use super::completion::Completion;
use crate::body::RemainingLength;

pin_project! {
    /// The future of [`OutcomeService`](super::OutcomeService). If it is dropped before the
    /// response head, the record is completed as cancelled.
    #[derive(Debug)]
    pub struct OutcomeFuture<F> {
        #[pin]
        inner: F,
        completion: Option<Completion>,
        answer_has_no_body: bool,
    }
}

impl<F> OutcomeFuture<F> {
    pub(super) fn new(inner: F, completion: Completion, answer_has_no_body: bool) -> Self {
        Self {
            inner,
            completion: Some(completion),
            answer_has_no_body,
        }
    }
}

impl<F, B, E> Future for OutcomeFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<OutcomeBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let mut completion = this.completion.take();
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => {
                if let Some(completion) = &mut completion {
                    completion.fail();
                }
                return Poll::Ready(Err(error));
            }
        };
        if let Some(completion) = &mut completion {
            completion.head(&answer);
        }
        let has_no_body = *this.answer_has_no_body
            || matches!(
                answer.status(),
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let rest = RemainingLength::of(answer.headers(), answer.body());
        Poll::Ready(Ok(
            answer.map(|body| OutcomeBody::new(body, rest, has_no_body, completion))
        ))
    }
}
