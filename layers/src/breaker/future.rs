//! The request until the head of its answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::layer::Judge;
use super::{BreakerBody, Token};
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`BreakerService`](super::BreakerService). Dropped, it says nothing of the
    /// backend.
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
        Judged {
            #[pin]
            inner: F,
            token: Option<Token>,
            judge: Judge,
        },
        Refused { failure: Option<Failure> },
    }
}

impl<F> BreakerFuture<F> {
    pub(super) fn judged(inner: F, token: Token, judge: Judge) -> Self {
        let token = Some(token);
        Self {
            state: State::Judged {
                inner,
                token,
                judge,
            },
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
            StateProjection::Judged {
                inner,
                token,
                judge,
            } => {
                let answer = ready!(inner.poll(cx)).map_err(Into::into);
                let token = token.take();
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(error) => {
                        if let Some(token) = token.filter(|_| judge.is_failure(&error)) {
                            token.fail();
                        }
                        return Poll::Ready(Err(error));
                    }
                };
                let has_failed = judge.statuses.contains(&answer.status());
                Poll::Ready(Ok(answer.map(|body| match (token, has_failed) {
                    (Some(token), true) => {
                        token.fail();
                        BreakerBody::new(body, None, judge.clone())
                    }
                    (token, _) => BreakerBody::new(body, token, judge.clone()),
                })))
            }
        }
    }
}
