//! The first attempt, which is usually the last, and later ones.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::service::RetryLoop;
use crate::classify::classify;
use crate::{BoxError, Replay};

/// The future of [`RetryService`](super::RetryService).
///
/// Boxed; otherwise every future around it would be as large as two requests.
#[must_use = "futures do nothing unless polled"]
pub struct RetryFuture<S: Service<Request<B>>, B>(Pin<Box<Steps<S, B>>>);

pin_project! {
    struct Steps<S, B>
    where
        S: Service<Request<B>>,
    {
        // `None` once it has moved into `Later`.
        retries: Option<RetryLoop<S>>,
        next: Option<Request<B>>,
        #[pin]
        step: Step<S, B>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<S, B>
    where
        S: Service<Request<B>>,
    {
        First { #[pin] answer: S::Future },
        Later { later: Later<S::Response> },
    }
}

type Later<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

impl<S: Service<Request<B>>, B> RetryFuture<S, B> {
    pub(super) fn new(retries: RetryLoop<S>, next: Option<Request<B>>, answer: S::Future) -> Self {
        Self(Box::pin(Steps {
            retries: Some(retries),
            next,
            step: Step::First { answer },
        }))
    }
}

impl<S, B, R> Future for RetryFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Replay + Send + 'static,
    R: Body + Send + 'static,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<S, B, R> Future for Steps<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Replay + Send + 'static,
    R: Body + Send + 'static,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const HERE: &str = "it goes with the step that follows";
        let mut this = self.project();
        loop {
            let step = match this.step.as_mut().project() {
                StepProjection::First { answer } => {
                    let answer = ready!(answer.poll(cx));
                    if this.retries.as_ref().expect(HERE).is_final(&answer) {
                        return Poll::Ready(answer.map_err(classify));
                    }
                    let retries = this.retries.take().expect(HERE);
                    let next = this.next.take();
                    Step::Later {
                        later: Box::pin(retries.go_on(answer.map_err(classify), next)),
                    }
                }
                StepProjection::Later { later } => return later.as_mut().poll(cx),
            };
            this.step.set(step);
        }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for RetryFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
