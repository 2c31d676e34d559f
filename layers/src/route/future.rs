//! The choice, then the answer's head.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{Choice, Choose};
use crate::BoxError;
use crate::body::Guarded;

/// The future of a service of type `S`, asked for a body of type `B`.
type Asked<S, B> = <S as Service<Request<B>>>::Future;
/// What such a service answers.
type Answer<S, B> = <S as Service<Request<B>>>::Response;
/// Who is asked, once somebody had to be waited for.
type Slow<S, G, B> = Pin<Box<dyn Future<Output = Result<(Answer<S, B>, G), BoxError>> + Send>>;

pin_project! {
    /// The future of [`Route`](super::Route). It has a box only if there is something to wait for
    /// before a backend is asked.
    #[must_use = "futures do nothing unless polled"]
    pub struct RouteFuture<C, B>
    where
        C: Choose,
        C::Service: Service<Request<B>>,
    {
        policy: C,
        #[pin]
        state: State<C::Service, C::Slot, B, Asked<C::Service, B>>,
    }
}

pin_project! {
    #[project = StateProjected]
    enum State<S, G, B, F>
    where
        S: Service<Request<B>>,
    {
        Begun { request: Option<Request<B>> },
        Asked { #[pin] future: F, slot: Option<G> },
        Slow { future: Slow<S, G, B> },
        Over,
    }
}

/// How far the request of a policy of type `C` has come.
type StateOf<C, B> =
    State<<C as Choose>::Service, <C as Choose>::Slot, B, Asked<<C as Choose>::Service, B>>;

impl<C, B> RouteFuture<C, B>
where
    C: Choose,
    C::Service: Service<Request<B>>,
{
    pub(super) fn new(policy: C, request: Request<B>) -> Self {
        let request = Some(request);
        Self {
            policy,
            state: State::Begun { request },
        }
    }
}

impl<C, B, R> Future for RouteFuture<C, B>
where
    C: Choose + Clone + Send + Sync + 'static,
    C::Service: Service<Request<B>, Response = Response<R>> + Send,
    <C::Service as Service<Request<B>>>::Error: Into<BoxError>,
    <C::Service as Service<Request<B>>>::Future: Send,
    C::Slot: Send,
    B: Send + 'static,
    R: Body,
{
    type Output = Result<Response<Guarded<R, C::Slot>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
        if let StateProjected::Begun { request } = state.as_mut().project() {
            let request = request.take().expect("polled after it was ready");
            state.set(begin(this.policy, request, cx)?);
        }
        let answered = match state.as_mut().project() {
            StateProjected::Asked { future, slot } => {
                let answer = ready!(future.poll(cx)).map_err(Into::into);
                let slot = slot.take().expect("polled after it was ready");
                answer.map(|answer| (answer, slot))
            }
            StateProjected::Slow { future } => ready!(future.as_mut().poll(cx)),
            StateProjected::Begun { .. } | StateProjected::Over => {
                panic!("polled after it was ready")
            }
        };
        state.set(State::Over);
        let (answer, mut slot) = answered?;
        let (parts, body) = answer.into_parts();
        this.policy.answered(&mut slot, &parts);
        Poll::Ready(Ok(Response::from_parts(parts, Guarded::new(body, slot))))
    }
}

/// Asks a backend, or waits until one can be.
fn begin<C, B>(
    policy: &C,
    request: Request<B>,
    cx: &mut Context<'_>,
) -> Result<StateOf<C, B>, BoxError>
where
    C: Choose + Clone + Send + Sync + 'static,
    C::Service: Service<Request<B>> + Send,
    <C::Service as Service<Request<B>>>::Error: Into<BoxError>,
    <C::Service as Service<Request<B>>>::Future: Send,
    C::Slot: Send,
    B: Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    let Some(choice) = policy.choose_now(&mut parts) else {
        let policy = policy.clone();
        let future = Box::pin(async move {
            let choice = policy.choose(&mut parts).await?;
            ask(choice, Request::from_parts(parts, body)).await
        });
        return Ok(State::Slow { future });
    };
    let mut choice = choice?;
    let request = Request::from_parts(parts, body);
    Ok(match choice.service.poll_ready(cx) {
        Poll::Ready(Ok(())) => State::Asked {
            future: choice.service.call(request),
            slot: Some(choice.slot),
        },
        Poll::Ready(Err(error)) => return Err(error.into()),
        Poll::Pending => State::Slow {
            future: Box::pin(ask(choice, request)),
        },
    })
}

async fn ask<S, G, B>(
    mut choice: Choice<S, G>,
    request: Request<B>,
) -> Result<(S::Response, G), BoxError>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    poll_fn(|cx| choice.service.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    let answer = choice.service.call(request).await.map_err(Into::into)?;
    Ok((answer, choice.slot))
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
