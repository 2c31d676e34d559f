//! Passive health: what requests see of a backend between two probes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use llamatower_layers::{BoxError, Failure};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::Backend;
use crate::ollama::upstream::{ConnectFailed, ConnectTimeout};

/// Notes on a backend when a connection to it is refused, so that it is asked last from then on;
/// the next probe that it answers brings it back.
#[derive(Clone, Debug)]
pub struct WatchLayer {
    backend: Arc<Backend>,
}

impl WatchLayer {
    /// Watches the requests of `backend`.
    pub fn new(backend: Arc<Backend>) -> Self {
        Self { backend }
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched {
            inner,
            backend: self.backend.clone(),
        }
    }
}

/// The service of [`WatchLayer`].
#[derive(Clone, Debug)]
pub struct Watched<S> {
    inner: S,
    backend: Arc<Backend>,
}

impl<S, R> Service<R> for Watched<S>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = WatchedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        WatchedFuture {
            inner: self.inner.call(request),
            backend: self.backend.clone(),
        }
    }
}

pin_project! {
    /// The future of [`Watched`].
    #[derive(Debug)]
    pub struct WatchedFuture<F> {
        #[pin]
        inner: F,
        backend: Arc<Backend>,
    }
}

impl<F, T, E> Future for WatchedFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx)).map_err(Into::into);
        if let Err(error) = &answer
            && cannot_connect(error)
        {
            this.backend.note_refused();
        }
        Poll::Ready(answer)
    }
}

fn cannot_connect(error: &BoxError) -> bool {
    Failure::find(&**error).is_some_and(|failure| {
        failure.caused_by::<ConnectFailed>().is_some()
            || failure.caused_by::<ConnectTimeout>().is_some()
    })
}
