//! The service of one backend, as all requests that go there share it.

use std::fmt;
use std::future::{self, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use llamatower_layers::BoxError;
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt};

/// The body of a backend's answer, of one type whatever layers stand before the backend.
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

type Asking = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, BoxError>> + Send>>;

/// A stack of layers before one backend, of one type whatever they are.
///
/// It does what tower's `BoxCloneSyncService` does, but a clone of it is that of a pointer: the
/// stack is cloned where it is called, and in no memory of its own.
pub struct Attempt<B>(Arc<dyn Ask<B>>);

/// Has the last word on the head of an answer.
type Finish = Arc<dyn Fn(&mut Parts) + Send + Sync>;

trait Ask<B>: Send + Sync {
    fn ask(&self, request: Request<B>) -> Asking;
}

impl<B> Attempt<B> {
    /// The service that `stack` is; `finish` has the last word on the heads of its answers.
    pub fn new<S, R>(stack: S, finish: impl Fn(&mut Parts) + Send + Sync + 'static) -> Self
    where
        S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
        B: Send + 'static,
        R: Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        let finish: Finish = Arc::new(finish);
        Self(Arc::new((stack, finish)))
    }
}

impl<S, B, R> Ask<B> for (S, Finish)
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    fn ask(&self, request: Request<B>) -> Asking {
        let (mut stack, finish) = self.clone();
        match stack.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Box::pin(Boxing {
                answer: stack.call(request),
                finish,
            }),
            Poll::Ready(Err(error)) => Box::pin(future::ready(Err(error))),
            // It is asked again by who will be woken.
            Poll::Pending => Box::pin(Boxing {
                answer: stack.oneshot(request),
                finish,
            }),
        }
    }
}

pin_project! {
    /// Gives the answer's body the type of all.
    struct Boxing<F> {
        #[pin]
        answer: F,
        finish: Finish,
    }
}

impl<F, R> Future for Boxing<F>
where
    F: Future<Output = Result<Response<R>, BoxError>>,
    R: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    type Output = Result<Response<AnswerBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut head, body) = ready!(this.answer.poll(cx))?.into_parts();
        (this.finish)(&mut head);
        Poll::Ready(Ok(Response::from_parts(head, AnswerBody::new(body))))
    }
}

impl<B> Service<Request<B>> for Attempt<B> {
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Asking;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Asking {
        self.0.ask(request)
    }
}

impl<B> Clone for Attempt<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> fmt::Debug for Attempt<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}
