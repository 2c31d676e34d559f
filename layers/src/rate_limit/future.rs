//! The answer under way, and what it will say of the quota.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::layer::{Rule, Standing};
use super::store::Verdict;
use crate::store::{Asking, Patience, StoreUnavailable};
use crate::{BoxError, Failure, ratelimit_fields};

pin_project! {
    /// The future of [`RateLimitService`](super::RateLimitService): of a service `S` and its
    /// future `F`, behind a store's answer `W`.
    pub struct RateLimitFuture<S, B, F, W> {
        #[pin]
        state: State<S, B, F, W>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F, W> {
        // In a box, or every future around this one would be as large as a request, though most
        // stores are not waited for.
        Taking { taking: Pin<Box<Taking<S, B, W>>> },
        Calling {
            #[pin]
            inner: F,
            standing: Option<Standing>,
        },
        Refused { refusal: Option<Failure> },
    }
}

pin_project! {
    struct Taking<S, B, W> {
        #[pin]
        asking: Asking<W>,
        next: Option<(Rule, S, Request<B>)>,
    }
}

impl<S, B, F, W> RateLimitFuture<S, B, F, W> {
    /// A request that passes, and where its bucket stands then, if it has one.
    pub(super) fn calling(inner: F, standing: Option<Standing>) -> Self {
        Self {
            state: State::Calling { inner, standing },
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
        patience: Patience,
        rule: Rule,
        readied: S,
        request: Request<B>,
    ) -> Self {
        Self {
            state: State::Taking {
                taking: Box::pin(Taking {
                    asking: Asking::new(taking, patience),
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
    W: Future<Output = Result<Verdict, StoreUnavailable>>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Taking { taking } => {
                    let taking = taking.as_mut().project();
                    let verdict = ready!(taking.asking.poll(cx));
                    let (rule, mut service, request) = taking
                        .next
                        .take()
                        .expect("taken here alone, as the state changes next");
                    let standing = rule.standing(verdict)?;
                    let inner = service.call(request);
                    state.set(State::Calling { inner, standing });
                }
                StateProjection::Refused { refusal } => {
                    let refusal = refusal.take().expect("polled after it was ready");
                    return Poll::Ready(Err(refusal.into()));
                }
                StateProjection::Calling { inner, standing } => {
                    let mut answer = match ready!(inner.poll(cx)) {
                        Ok(answer) => answer,
                        Err(error) => return Poll::Ready(Err(error.into())),
                    };
                    if let Some(at) = standing.take() {
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
