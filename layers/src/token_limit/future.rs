//! The reservation, and the request behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::error::write_standings;
use super::layer::Limit;
use super::{
    Settlement, Standing, StoreUnavailable, TokenStore, TokensExhausted, Verdict, WhenUnavailable,
};
use crate::body::Guarded;
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`TokenLimitService`](super::TokenLimitService).
    pub struct TokenLimitFuture<S, B, K, T>
    where
        S: Service<Request<B>>,
        T: TokenStore<K>,
    {
        #[pin]
        state: State<S, B, S::Future, T::Reserving>,
        settlement: Option<Settlement<K, T>>,
        standings: Vec<Standing>,
        store: Option<Arc<T>>,
        estimate: u64,
        when_unavailable: WhenUnavailable,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F, W> {
        Reserving {
            #[pin]
            reserving: W,
            deadline: Duration,
            // Set when the store makes us wait, which one in memory never does.
            #[pin]
            timer: Option<Sleep>,
            call: Option<(S, Request<B>)>,
        },
        Calling {
            #[pin]
            inner: F,
        },
    }
}

impl<S, B, K, T> TokenLimitFuture<S, B, K, T>
where
    S: Service<Request<B>>,
    T: TokenStore<K>,
{
    pub(super) fn uncounted(inner: S::Future) -> Self {
        Self {
            state: State::Calling { inner },
            settlement: None,
            standings: Vec::new(),
            store: None,
            estimate: 0,
            when_unavailable: WhenUnavailable::Admit,
        }
    }

    pub(super) fn reserving<X>(
        reserving: T::Reserving,
        readied: S,
        request: Request<B>,
        limit: &Limit<K, X, T>,
        estimate: u64,
    ) -> Self {
        Self {
            state: State::Reserving {
                reserving,
                deadline: limit.deadline,
                timer: None,
                call: Some((readied, request)),
            },
            settlement: None,
            standings: Vec::new(),
            store: Some(limit.store.clone()),
            estimate,
            when_unavailable: limit.when_unavailable,
        }
    }
}

/// Waits for the store, but not for ever.
fn poll_store<W, R>(
    reserving: Pin<&mut W>,
    deadline: Duration,
    mut timer: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Verdict<R>, StoreUnavailable>>
where
    W: Future<Output = Result<Verdict<R>, StoreUnavailable>>,
{
    if let Poll::Ready(answer) = reserving.poll(cx) {
        return Poll::Ready(answer);
    }
    if timer.is_none() {
        timer.set(Some(sleep(deadline)));
    }
    if let Some(timer) = timer.as_pin_mut() {
        ready!(timer.poll(cx));
    }
    let late = format!("the store gave no answer within {deadline:?}");
    Poll::Ready(Err(StoreUnavailable::new(late)))
}

impl<S, B, R, K, T> Future for TokenLimitFuture<S, B, K, T>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    T: TokenStore<K>,
    R: Body,
{
    type Output = Result<Response<Guarded<R, Settlement<K, T>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Reserving {
                    reserving,
                    deadline,
                    timer,
                    call,
                } => {
                    match ready!(poll_store(reserving, *deadline, timer, cx)) {
                        Ok(Ok(granted)) => {
                            let store = this.store.take();
                            *this.settlement = store.map(|store| {
                                Settlement::new(store, granted.reservation, *this.estimate)
                            });
                            *this.standings = granted.standings;
                        }
                        Ok(Err(standing)) => {
                            let exhausted = TokensExhausted::new(standing);
                            return Poll::Ready(Err(Failure::from(exhausted).into()));
                        }
                        Err(unavailable) if *this.when_unavailable == WhenUnavailable::Refuse => {
                            return Poll::Ready(Err(Failure::from(unavailable).into()));
                        }
                        Err(_) => {}
                    }
                    let (mut service, request) = call
                        .take()
                        .expect("taken here alone, as the state changes next");
                    let inner = service.call(request);
                    this.state.set(State::Calling { inner });
                }
                StateProjection::Calling { inner } => {
                    let mut answer = match ready!(inner.poll(cx)) {
                        Ok(answer) => answer,
                        Err(error) => {
                            *this.settlement = None;
                            return Poll::Ready(Err(error.into()));
                        }
                    };
                    write_standings(answer.headers_mut(), this.standings);
                    let mut settlement = this.settlement.take();
                    if let Some(settlement) = &mut settlement {
                        settlement.answered(answer.status(), answer.extensions());
                    }
                    return Poll::Ready(Ok(answer.map(|body| Guarded::maybe(body, settlement))));
                }
            }
        }
    }
}

impl<S, B, K, T> std::fmt::Debug for TokenLimitFuture<S, B, K, T>
where
    S: Service<Request<B>>,
    T: TokenStore<K>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenLimitFuture").finish_non_exhaustive()
    }
}
