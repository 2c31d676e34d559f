//! The future: it chooses a backend, then waits for the response head.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{Choice, Choose};
use crate::BoxError;
use crate::body::Guarded;

pin_project! {
    /// The future of [`RouteService`](super::RouteService).
    #[must_use = "futures do nothing unless polled"]
    pub struct RouteFuture<C, B>
    where
        C: Choose,
        C::Service: Service<Request<B>>,
    {
        policy: C,
        #[pin]
        state: State<C, B, <C::Service as Service<Request<B>>>::Future>,
    }
}

pin_project! {
    #[project = StateProjected]
    enum State<C, B, F>
    where
        C: Choose,
    {
        Choosing { request: Option<(Parts, B)>, wait: C::Wait },
        Readying { call: Option<(Choice<C::Service, C::Slot>, Request<B>)> },
        Calling { #[pin] future: F, slot: Option<C::Slot> },
        Done,
    }
}

/// A response with a body of type `R` and the slot of its backend.
type AnswerOf<R, C> = Result<Response<Guarded<R, <C as Choose>::Slot>>, BoxError>;

const POLLED_AFTER_READY: &str = "polled after it was ready";

impl<C, B> RouteFuture<C, B>
where
    C: Choose,
    C::Service: Service<Request<B>>,
{
    pub(super) fn new(policy: C, request: Request<B>) -> Self {
        let request = Some(request.into_parts());
        let wait = C::Wait::default();
        Self {
            policy,
            state: State::Choosing { request, wait },
        }
    }
}

impl<C, B, R> Future for RouteFuture<C, B>
where
    C: Choose,
    C::Service: Service<Request<B>, Response = Response<R>>,
    <C::Service as Service<Request<B>>>::Error: Into<BoxError>,
    R: Body,
{
    type Output = AnswerOf<R, C>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.as_mut().poll_answer(cx));
        // A caller who keeps the finished future does not keep the slot.
        self.project().state.set(State::Done);
        Poll::Ready(answer)
    }
}

impl<C, B> RouteFuture<C, B>
where
    C: Choose,
    C::Service: Service<Request<B>>,
{
    fn poll_answer<R>(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<AnswerOf<R, C>>
    where
        C::Service: Service<Request<B>, Response = Response<R>>,
        <C::Service as Service<Request<B>>>::Error: Into<BoxError>,
        R: Body,
    {
        let mut this = self.project();
        loop {
            let (mut choice, request) = match this.state.as_mut().project() {
                StateProjected::Choosing { request, wait } => {
                    let (head, _) = request.as_mut().expect(POLLED_AFTER_READY);
                    let choice = ready!(this.policy.poll_choose(wait, head, cx))?;
                    let (head, body) = request.take().expect(POLLED_AFTER_READY);
                    (choice, Request::from_parts(head, body))
                }
                StateProjected::Readying { call } => call.take().expect(POLLED_AFTER_READY),
                StateProjected::Calling { future, slot } => {
                    let answer = ready!(future.poll(cx)).map_err(Into::into)?;
                    let slot = slot.take().expect(POLLED_AFTER_READY);
                    return Poll::Ready(Ok(answer.map(|body| Guarded::new(body, slot))));
                }
                StateProjected::Done => panic!("{POLLED_AFTER_READY}"),
            };
            match choice.service.poll_ready(cx).map_err(Into::into)? {
                Poll::Ready(()) => this.state.set(State::Calling {
                    future: choice.service.call(request),
                    slot: Some(choice.slot),
                }),
                Poll::Pending => {
                    let call = Some((choice, request));
                    this.state.set(State::Readying { call });
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<C, B> fmt::Debug for RouteFuture<C, B>
where
    C: Choose,
    C::Service: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteFuture").finish_non_exhaustive()
    }
}
