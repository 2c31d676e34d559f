//! Waits for a long scan, and then for the inner service.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::layer::Config;
use super::plan::settle;
use super::scan::Scanned;
use crate::body::ReplayBody;
use crate::{BoxError, Endpoint, Failure};

/// A scan in slices. Boxed because it is rare and large.
pub(super) type Scan = Pin<Box<dyn Future<Output = Result<Scanned, Failure>> + Send>>;

pin_project! {
    /// The future of [`LlmRequestService`](super::LlmRequestService).
    #[must_use = "futures do nothing unless polled"]
    pub struct LlmRequestFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProjected]
    enum State<S, B, F> {
        Refused { failure: Option<Failure> },
        Scanning { waiting: Option<Box<Waiting<S, B>>> },
        Called { #[pin] future: F },
    }
}

/// A request whose body is being scanned.
pub(super) struct Waiting<S, B> {
    pub(super) scan: Scan,
    pub(super) request: Request<ReplayBody<B>>,
    pub(super) inner: S,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) config: Arc<Config>,
    pub(super) is_json: bool,
}

impl<S, B> LlmRequestFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(super) fn refused(failure: Failure) -> Self {
        Self {
            state: State::Refused {
                failure: Some(failure),
            },
        }
    }

    pub(super) fn scanning(waiting: Waiting<S, B>) -> Self {
        Self {
            state: State::Scanning {
                waiting: Some(Box::new(waiting)),
            },
        }
    }

    pub(super) fn called(future: S::Future) -> Self {
        Self {
            state: State::Called { future },
        }
    }
}

impl<S, B> Future for LlmRequestFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let future = match state.as_mut().project() {
                StateProjected::Called { future } => return future.poll(cx).map_err(Into::into),
                StateProjected::Refused { failure } => {
                    let failure = failure.take().expect("polled after it was ready");
                    return Poll::Ready(Err(failure.into()));
                }
                StateProjected::Scanning { waiting } => {
                    let scan = &mut waiting.as_mut().expect("polled after it was ready").scan;
                    let scanned = ready!(scan.as_mut().poll(cx));
                    let waiting = waiting.take().expect("it was there above");
                    waiting.finish(scanned?)?
                }
            };
            state.set(State::Called { future });
        }
    }
}

impl<S, B> Waiting<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn finish(mut self, scanned: Scanned) -> Result<S::Future, Failure> {
        settle(
            &mut self.request,
            &self.endpoint,
            scanned,
            self.is_json,
            &self.config,
        )?;
        Ok(self.inner.call(self.request))
    }
}

impl<S, B> fmt::Debug for LlmRequestFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmRequestFuture").finish_non_exhaustive()
    }
}
