//! The future of a response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::catch::{PanicHook, catch, ignore_panics};
use super::{PanicGuardBody, Panicked};
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`PanicGuardService`](super::PanicGuardService).
    #[derive(Debug)]
    pub struct PanicGuardFuture<F> {
        // `None` after a panic.
        #[pin]
        inner: Option<F>,
        hook: Option<PanicHook>,
    }
}

impl<F> PanicGuardFuture<F> {
    pub(super) fn new(inner: Option<F>, hook: Option<PanicHook>) -> Self {
        Self { inner, hook }
    }
}

impl<F, R, E> Future for PanicGuardFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<PanicGuardBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let hook = this.hook;
        let mut answer = Poll::Pending;
        let polled = match this.inner.as_mut().as_pin_mut() {
            Some(inner) => catch(hook.as_ref(), || answer = inner.poll(cx)),
            None => Err(Panicked),
        };
        match polled {
            Ok(()) => Poll::Ready(match ready!(answer) {
                Ok(response) => Ok(response.map(|body| PanicGuardBody::new(body, hook.take()))),
                Err(error) => Err(error.into()),
            }),
            Err(panicked) => {
                ignore_panics(|| this.inner.set(None));
                Poll::Ready(Err(Failure::from(panicked).into()))
            }
        }
    }
}
