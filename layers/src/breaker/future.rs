//! The request until the head of its answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{BreakerBody, Token};
use crate::{BoxError, Failure, Side};

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
            statuses: Arc<[StatusCode]>,
        },
        Refused { failure: Option<Failure> },
    }
}

impl<F> BreakerFuture<F> {
    pub(super) fn judged(inner: F, token: Token, statuses: Arc<[StatusCode]>) -> Self {
        let token = Some(token);
        Self {
            state: State::Judged {
                inner,
                token,
                statuses,
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

/// Whether an error is the backend's. One that says nothing of itself is taken for that: it came
/// from where the backend is.
pub(super) fn is_failure(error: &BoxError) -> bool {
    Failure::find(&**error).is_none_or(|failure| failure.side() == Side::Upstream)
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
                statuses,
            } => {
                let answer = ready!(inner.poll(cx)).map_err(Into::into);
                let token = token.take();
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(error) => {
                        if let Some(token) = token.filter(|_| is_failure(&error)) {
                            token.fail();
                        }
                        return Poll::Ready(Err(error));
                    }
                };
                let has_failed = statuses.contains(&answer.status());
                Poll::Ready(Ok(answer.map(|body| match (token, has_failed) {
                    (Some(token), true) => {
                        token.fail();
                        BreakerBody::new(body, None)
                    }
                    (token, _) => BreakerBody::new(body, token),
                })))
            }
        }
    }
}
