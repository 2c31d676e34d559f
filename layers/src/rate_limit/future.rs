//! The answer under way, and what it will say of the quota.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Response};
use pin_project_lite::pin_project;

use super::{RateLimited, Scope};
use crate::ratelimit_fields;
use crate::{BoxError, Failure};

/// Where a request that passed has left its bucket.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) policy: Option<HeaderValue>,
    pub(super) scope: Scope,
    pub(super) remaining: u32,
    /// After how long the bucket is full, if nothing more comes.
    pub(super) reset: Duration,
}

pin_project! {
    /// The future of [`RateLimitService`](super::RateLimitService).
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Passed {
            #[pin]
            inner: F,
            standing: Option<Standing>,
        },
        Refused { refusal: RateLimited },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn passed(inner: F, standing: Option<Standing>) -> Self {
        Self {
            state: State::Passed { inner, standing },
        }
    }

    pub(super) fn refused(refusal: RateLimited) -> Self {
        Self {
            state: State::Refused { refusal },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { refusal } => {
                Poll::Ready(Err(Failure::from(*refusal).into()))
            }
            StateProjection::Passed { inner, standing } => {
                let mut answer = ready!(inner.poll(cx)).map_err(Into::into);
                if let (Ok(response), Some(at)) = (&mut answer, standing.take()) {
                    let headers = response.headers_mut();
                    let (name, remaining) = (at.scope.name(), u64::from(at.remaining));
                    ratelimit_fields::append(headers, at.policy, name, remaining, at.reset);
                }
                Poll::Ready(answer)
            }
        }
    }
}
