//! The future: it reserves tokens, then calls the inner service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::error::write_budget_states;
use super::layer::Limit;
use super::{BudgetState, Settlement, TokenStore, TokensExhausted};
use crate::body::Guarded;
use crate::store::StoreCall;
use crate::usage::ReportPlace;
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`TokenLimitService`](super::TokenLimitService).
    pub struct TokenLimitFuture<S, B, K, T>
    where
        S: Service<Request<B>>,
        T: TokenStore<K>,
    {
        #[pin]
        state: State<S, B, S::Future, K, T>,
        settlement: Option<Settlement<K, T>>,
        budget_states: Vec<BudgetState>,
        report_place: Option<ReportPlace>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F, K, T>
    where
        T: TokenStore<K>,
    {
        // Boxed: otherwise each outer future would be as large as a request.
        Reserving { reserving: Pin<Box<Reserving<S, B, K, T>>> },
        Calling {
            #[pin]
            inner: F,
        },
        Refused { refusal: Option<Failure> },
    }
}

pin_project! {
    #[project = ReservingProjection]
    struct Reserving<S, B, K, T>
    where
        T: TokenStore<K>,
    {
        #[pin]
        store_call: StoreCall<T::Reserving>,
        call: Option<(S, Request<B>)>,
        store: Arc<T>,
        estimate: u64,
        is_shared: bool,
    }
}

impl<S, B, K, T> TokenLimitFuture<S, B, K, T>
where
    S: Service<Request<B>>,
    T: TokenStore<K>,
{
    pub(super) fn uncounted(inner: S::Future) -> Self {
        Self::uncounted_in(State::Calling { inner })
    }

    pub(super) fn refused(refusal: Failure) -> Self {
        let refusal = Some(refusal);
        Self::uncounted_in(State::Refused { refusal })
    }

    fn uncounted_in(state: State<S, B, S::Future, K, T>) -> Self {
        Self {
            state,
            settlement: None,
            budget_states: Vec::new(),
            report_place: None,
        }
    }

    pub(super) fn reserving<X>(
        reserving: T::Reserving,
        ready_service: S,
        request: Request<B>,
        limit: &Limit<K, X, T>,
        estimate: u64,
    ) -> Self {
        let report_place = ReportPlace::of(request.extensions());
        Self {
            state: State::Reserving {
                reserving: Box::pin(Reserving {
                    store_call: StoreCall::new(reserving, limit.options.policy),
                    call: Some((ready_service, request)),
                    store: limit.store.clone(),
                    estimate,
                    is_shared: limit.options.is_shared,
                }),
            },
            settlement: None,
            budget_states: Vec::new(),
            report_place: Some(report_place),
        }
    }
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
                StateProjection::Reserving { reserving } => {
                    let ReservingProjection {
                        store_call,
                        call,
                        store,
                        estimate,
                        is_shared,
                    } = reserving.as_mut().project();
                    match ready!(store_call.poll(cx)) {
                        Ok(Some(Ok(granted))) => {
                            let report_place = this.report_place.take();
                            *this.settlement = report_place.map(|report_place| {
                                let reservation = granted.reservation;
                                Settlement::new(store.clone(), reservation, *estimate, report_place)
                            });
                            *this.budget_states = granted.budget_states;
                        }
                        Ok(Some(Err(budget_state))) => {
                            let exhausted = TokensExhausted::new(budget_state, *is_shared);
                            return Poll::Ready(Err(Failure::from(exhausted).into()));
                        }
                        Ok(None) => {}
                        Err(unavailable) => {
                            return Poll::Ready(Err(Failure::from(unavailable).into()));
                        }
                    }
                    let (mut service, request) = call
                        .take()
                        .expect("only taken here, because the state changes next");
                    let inner = service.call(request);
                    this.state.set(State::Calling { inner });
                }
                StateProjection::Refused { refusal } => {
                    let refusal = refusal.take().expect("polled after it was ready");
                    return Poll::Ready(Err(refusal.into()));
                }
                StateProjection::Calling { inner } => {
                    let mut answer = match ready!(inner.poll(cx)) {
                        Ok(answer) => answer,
                        Err(error) => {
                            *this.settlement = None;
                            return Poll::Ready(Err(error.into()));
                        }
                    };
                    write_budget_states(answer.headers_mut(), this.budget_states);
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
