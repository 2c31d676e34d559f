//! The response, with its rate limit headers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::layer::{BucketState, Rule};
use super::store::TakeResult;
use crate::store::{StoreCall, StorePolicy, StoreUnavailable};
use crate::{BoxError, Failure, ratelimit_fields};

pin_project! {
    /// The future of [`RateLimitService`](super::RateLimitService): of a service `S` and its future
    /// `F`, after a store's response `W`.
    pub struct RateLimitFuture<S, B, F, W> {
        #[pin]
        state: State<S, B, F, W>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F, W> {
        // Boxed; otherwise every future around this one would be as large as a request, although
        // most stores respond at once.
        Taking { taking: Pin<Box<Taking<S, B, W>>> },
        Calling {
            #[pin]
            inner: F,
            // Boxed, because several limits stand in a row and most are off.
            bucket: Option<Box<BucketState>>,
        },
        Refused { refusal: Option<Failure> },
    }
}

pin_project! {
    struct Taking<S, B, W> {
        #[pin]
        store_call: StoreCall<W>,
        next: Option<(Rule, S, Request<B>)>,
    }
}

impl<S, B, F, W> RateLimitFuture<S, B, F, W> {
    /// For a request that passes, with the state of its bucket, if there is one.
    pub(super) fn calling(inner: F, bucket: Option<BucketState>) -> Self {
        let bucket = bucket.map(Box::new);
        Self {
            state: State::Calling { inner, bucket },
        }
    }

    pub(super) fn refused(refusal: Failure) -> Self {
        let refusal = Some(refusal);
        Self {
            state: State::Refused { refusal },
        }
    }

    pub(super) fn taking(
        taking: W,
        policy: StorePolicy,
        rule: Rule,
        readied: S,
        request: Request<B>,
    ) -> Self {
        Self {
            state: State::Taking {
                taking: Box::pin(Taking {
                    store_call: StoreCall::new(taking, policy),
                    next: Some((rule, readied, request)),
                }),
            },
        }
    }
}

impl<S, B, R, F, W> Future for RateLimitFuture<S, B, F, W>
where
    S: Service<Request<B>, Response = Response<R>, Future = F>,
    S::Error: Into<BoxError>,
    F: Future<Output = Result<Response<R>, S::Error>>,
    W: Future<Output = Result<TakeResult, StoreUnavailable>>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Taking { taking } => {
                    let taking = taking.as_mut().project();
                    let take_result = ready!(taking.store_call.poll(cx));
                    let (rule, mut service, request) = taking
                        .next
                        .take()
                        .expect("taken here alone, as the state changes next");
                    let bucket = rule.state(take_result)?.map(Box::new);
                    let inner = service.call(request);
                    state.set(State::Calling { inner, bucket });
                }
                StateProjection::Refused { refusal } => {
                    let refusal = refusal.take().expect("polled after it was ready");
                    return Poll::Ready(Err(refusal.into()));
                }
                StateProjection::Calling { inner, bucket } => {
                    let mut answer = match ready!(inner.poll(cx)) {
                        Ok(answer) => answer,
                        Err(error) => return Poll::Ready(Err(error.into())),
                    };
                    if let Some(at) = bucket.take().map(|bucket| *bucket) {
                        let headers = answer.headers_mut();
                        let (name, remaining) = (at.scope.name(), u64::from(at.remaining));
                        ratelimit_fields::append(headers, at.policy, name, remaining, at.reset);
                    }
                    return Poll::Ready(Ok(answer));
                }
            }
        }
    }
}

impl<S, B, F, W> std::fmt::Debug for RateLimitFuture<S, B, F, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}
