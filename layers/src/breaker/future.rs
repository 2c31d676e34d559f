//! The request until the head of its response.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::layer::FailureRule;
use super::{BreakerBody, Token};
use crate::classify::classify;
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`BreakerService`](super::BreakerService). If it is dropped, the request does
    /// not count.
    #[derive(Debug)]
    pub struct BreakerFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Counted {
            #[pin]
            inner: F,
            token: Option<Token>,
            rule: Arc<FailureRule>,
        },
        Refused { failure: Option<Failure> },
    }
}

impl<F> BreakerFuture<F> {
    pub(super) fn counted(inner: F, token: Token, rule: Arc<FailureRule>) -> Self {
        let token = Some(token);
        Self {
            state: State::Counted { inner, token, rule },
        }
    }

    pub(super) fn refused(failure: Failure) -> Self {
        let failure = Some(failure);
        Self {
            state: State::Refused { failure },
        }
    }
}

impl<F, B, E> Future for BreakerFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body,
{
    type Output = Result<Response<BreakerBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { failure } => match failure.take() {
                Some(failure) => Poll::Ready(Err(failure.into())),
                None => Poll::Pending,
            },
            StateProjection::Counted { inner, token, rule } => {
                let answer = ready!(inner.poll(cx));
                let token = token.take();
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(error) => {
                        let error = classify(error);
                        if let Some(token) = token.filter(|_| rule.is_failure(&error)) {
                            token.fail();
                        }
                        return Poll::Ready(Err(error));
                    }
                };
                let token = token.and_then(|token| rule.head(token, &answer));
                let (head, body) = answer.into_parts();
                let body = BreakerBody::new(body, &head.headers, token, rule.clone());
                Poll::Ready(Ok(Response::from_parts(head, body)))
            }
        }
    }
}
