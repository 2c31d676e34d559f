//! The time-out of a request at a server that is found to be down.
//!
//! The first-byte time-out is long, because a server that loads a model or reads a prompt sends
//! nothing. A server that does not answer the gateway's probes either does not work on a request.
//! This clock runs only while the server is [silent](Backend::silent_since), and only until the head
//! of the response. A request that cannot connect marks the server as down.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use llamatower_layers::retry::Attempts;
use llamatower_layers::{
    BoxError, Deadline, Fail, Failure, Operation, Retryable, RouteMatch, Side,
};
use pin_project_lite::pin_project;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;
use tower::Service;

use super::fleet::Backend;

/// The time-out at a server that was silent before the request was sent, in time-outs of probes.
/// The gateway tries it once, because to refuse the request would help no client.
const PROBES_BEFORE: u32 = 4;

/// The time-out at a server that falls silent afterwards, in time-outs of probes, if another server
/// can be tried. It is longer than that of a lookup, because the request may have cost the server
/// minutes of work, and a machine that swaps may miss some probes.
const PROBES_AFTER: u32 = 15;

/// The first-byte time-out of lookups, in time-outs of probes. A server answers them in
/// milliseconds, also while it loads a model.
pub(crate) const PROBES_OF_LOOKUP: u32 = 5;

/// The name of this time-out in errors.
pub(crate) const LIMIT_OF_LOOKUP: &str = "5 times LLAMATOWER_PROBE_TIMEOUT";

/// Whether an operation asks one server for what it knows of a model.
pub(crate) fn is_lookup(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Show | Operation::Model | Operation::Status
    )
}

/// Ends requests at a server that is down, before its response, and marks a server as down that refuses
/// connections; see the [module](self).
///
/// The clock does not run for an OpenAI-compatible server, because some of these answer nothing while
/// they work, nor for a request that manages models, because that is never repeated.
#[derive(Clone, Debug)]
pub struct DownClock<S> {
    inner: S,
    backend: Arc<Backend>,
    probe_timeout: Duration,
}

impl<S> DownClock<S> {
    /// Wraps the service of `backend`.
    pub fn new(inner: S, backend: &Arc<Backend>, probe_timeout: Duration) -> Self {
        Self {
            inner,
            backend: backend.clone(),
            probe_timeout,
        }
    }

    fn clock<B>(&self, request: &Request<B>) -> Option<Clock> {
        let backend = &self.backend;
        if backend.openai().is_some() {
            return None;
        }
        let operation = RouteMatch::of(request.extensions()).and_then(RouteMatch::operation);
        if operation.is_some_and(Operation::is_management) {
            return None;
        }
        let attempts = Attempts::of(request.extensions());
        let patience = match operation {
            _ if !attempts.is_some_and(Attempts::can_go_elsewhere) => None,
            Some(operation) if is_lookup(operation) => Some(Duration::ZERO),
            _ => Some(self.probe_timeout.saturating_mul(PROBES_AFTER)),
        };
        let falls_silent = backend.falls_silent();
        let silent_since = backend.silent_since();
        if patience.is_none() && silent_since.is_none() {
            return None;
        }
        let mut deadline = Deadline::default();
        if silent_since.is_some() {
            deadline.arm_after(self.probe_timeout.saturating_mul(PROBES_BEFORE));
        }
        Some(Clock {
            falls_silent,
            silent_since,
            deadline,
            patience,
            was_down: silent_since.is_some(),
        })
    }
}

impl<S, B, R> Service<Request<B>> for DownClock<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = DownClockFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        DownClockFuture {
            clock: self.clock(&request),
            inner: self.inner.call(request),
            backend: self.backend.clone(),
        }
    }
}

pin_project! {
    /// The future of [`DownClock`].
    #[derive(Debug)]
    pub struct DownClockFuture<F> {
        #[pin]
        inner: F,
        #[pin]
        clock: Option<Clock>,
        backend: Arc<Backend>,
    }
}

impl<F, R> Future for DownClockFuture<F>
where
    F: Future<Output = Result<Response<R>, BoxError>>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.inner.poll(cx) {
            if let Err(error) = &answer {
                this.backend.mark_unreachable(error);
            }
            return Poll::Ready(answer);
        }
        let Some(clock) = this.clock.as_pin_mut() else {
            return Poll::Pending;
        };
        let down = clock.poll(this.backend, cx);
        down.map(|down| Err(Failure::from(down).into()))
    }
}

pin_project! {
    #[derive(Debug)]
    struct Clock {
        #[pin]
        falls_silent: OwnedNotified,
        // The silence that the deadline is for.
        silent_since: Option<Instant>,
        deadline: Deadline,
        // The time-out after the server falls silent; `None` for no limit.
        patience: Option<Duration>,
        // The server was silent when the request was sent.
        was_down: bool,
    }
}

impl Clock {
    fn poll(self: Pin<&mut Self>, backend: &Backend, cx: &mut Context<'_>) -> Poll<ServerDown> {
        let mut this = self.project();
        loop {
            if this.deadline.is_armed() {
                ready!(this.deadline.poll(cx));
            } else {
                ready!(this.falls_silent.as_mut().poll(cx));
                this.falls_silent.set(backend.falls_silent());
            }
            let silent_since = backend.silent_since();
            if let Some(since) = silent_since
                && this.deadline.is_armed()
                && silent_since == *this.silent_since
            {
                return Poll::Ready(ServerDown {
                    backend: backend.name().clone(),
                    silent_for: since.elapsed(),
                    retryable: match *this.was_down {
                        // A better server would have been chosen.
                        true => Retryable::No,
                        false => Retryable::Elsewhere,
                    },
                });
            }
            (*this.silent_since, *this.was_down) = (silent_since, false);
            let patience = *this.patience;
            let limit = silent_since
                .zip(patience)
                .and_then(|(since, patience)| since.checked_add(patience));
            this.deadline.arm(limit);
        }
    }
}

/// The server answers neither the request nor the gateway's probes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the backend {backend} is down: it has not responded to the gateway for {} s, and it does not \
     answer this request either",
    silent_for.as_secs()
)]
pub struct ServerDown {
    backend: Arc<str>,
    silent_for: Duration,
    retryable: Retryable,
}

impl Fail for ServerDown {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::GATEWAY_TIMEOUT
    }
    fn kind(&self) -> &'static str {
        "backend_down"
    }
    fn retryable(&self) -> Retryable {
        self.retryable
    }
}
