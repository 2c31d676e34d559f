//! The choice, then the answer's head.

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
    /// The future of [`Route`](super::Route).
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
        Readying { choice: Option<Choice<C::Service, C::Slot>>, request: Option<Request<B>> },
        Asked { #[pin] future: F, slot: Option<C::Slot> },
        Over,
    }
}

/// An answer with a body of type `R`, and the slot that it holds.
type AnswerOf<R, C> = Result<Response<Guarded<R, <C as Choose>::Slot>>, BoxError>;

const OVER: &str = "polled after it was ready";

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
        // A future that is kept after its end keeps no slot.
        self.project().state.set(State::Over);
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
            let next = match this.state.as_mut().project() {
                StateProjected::Choosing { request, wait } => {
                    let (head, _) = request.as_mut().expect(OVER);
                    let choice = ready!(this.policy.poll_choose(wait, head, cx))?;
                    let request = request.take();
                    State::Readying {
                        choice: Some(choice),
                        request: request.map(|(head, body)| Request::from_parts(head, body)),
                    }
                }
                StateProjected::Readying { choice, request } => {
                    let service = &mut choice.as_mut().expect(OVER).service;
                    ready!(service.poll_ready(cx)).map_err(Into::into)?;
                    let future = service.call(request.take().expect(OVER));
                    let slot = choice.take().map(|choice| choice.slot);
                    State::Asked { future, slot }
                }
                StateProjected::Asked { future, slot } => {
                    let answer = ready!(future.poll(cx)).map_err(Into::into)?;
                    let (head, body) = answer.into_parts();
                    let mut slot = slot.take().expect(OVER);
                    this.policy.answered(&mut slot, &head);
                    return Poll::Ready(Ok(Response::from_parts(head, Guarded::new(body, slot))));
                }
                StateProjected::Over => panic!("{OVER}"),
            };
            this.state.set(next);
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
