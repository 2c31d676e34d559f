//! The service of a chosen backend; it records the result of the request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response, StatusCode};
use llamatower_layers::clocks::FirstByteTimeout;
use llamatower_layers::{BoxError, Failure, ModelName, Side};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::member::Member;
use super::outlier::{Change, Outcome, Reason};
use crate::ollama::upstream::{ConnectFailed, ConnectTimeout};

/// The service of a chosen backend; it records the result for outlier detection.
#[derive(Clone, Debug)]
pub struct Observed<S> {
    inner: S,
    /// `None` if the request runs no model.
    model: Option<(Arc<Member<S>>, ModelName)>,
}

impl<S: Clone> Observed<S> {
    /// The service of `member`, for a request that runs `model`.
    pub(super) fn new(member: &Arc<Member<S>>, model: Option<ModelName>) -> Self {
        Self {
            inner: member.service.clone(),
            model: model.map(|model| (member.clone(), model)),
        }
    }
}

impl<S, B, R> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ObservedFuture<S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let result = self.model.take().map(|(member, model)| Awaited {
            member,
            model,
            sent: Instant::now(),
            is_over: false,
        });
        ObservedFuture {
            inner: self.inner.call(request),
            result,
        }
    }
}

pin_project! {
    /// The future of [`Observed`].
    #[derive(Debug)]
    pub struct ObservedFuture<S, F> {
        #[pin]
        inner: F,
        result: Option<Awaited<S>>,
    }
}

impl<S, F, R, E> Future for ObservedFuture<S, F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx)).map_err(Into::into);
        if let Some(awaited) = this.result.take() {
            awaited.end(match &answer {
                Ok(answer) => of_response(answer.status(), answer.headers()),
                Err(error) => of_error(error),
            });
        }
        Poll::Ready(answer)
    }
}

/// A request until its result is known.
#[derive(Debug)]
struct Awaited<S> {
    member: Arc<Member<S>>,
    model: ModelName,
    sent: Instant,
    is_over: bool,
}

impl<S> Awaited<S> {
    fn end(mut self, outcome: Option<Outcome>) {
        self.is_over = true;
        if let Some(outcome) = outcome {
            self.member.record_outcome(&self.model, outcome);
        }
    }
}

impl<S> Drop for Awaited<S> {
    fn drop(&mut self) {
        if !self.is_over {
            let left = Outcome::ClientLeft(self.sent.elapsed());
            self.member.record_outcome(&self.model, left);
        }
    }
}

impl<S> Member<S> {
    /// Records the result of a request, and logs if that changes where requests go.
    pub(super) fn record_outcome(&self, model: &ModelName, outcome: Outcome) {
        let backend = self.backend.name();
        match self.outliers.record(model, outcome) {
            Change::None => {}
            Change::Avoided(reason) => tracing::warn!(
                %backend, %model, reason = reason.name(),
                "the backend is avoided for this model while another has it"
            ),
            Change::Normal => tracing::info!(
                %backend, %model,
                "the backend responds again with this model"
            ),
        }
    }
}

/// What a response says about its backend. A client's error says nothing.
fn of_response(status: StatusCode, headers: &HeaderMap) -> Option<Outcome> {
    let retry_after = || {
        let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
        seconds.trim().parse().ok().map(Duration::from_secs)
    };
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            Some(Outcome::Bad(Reason::Busy, retry_after()))
        }
        status if status.is_server_error() => Some(Outcome::Bad(Reason::Failing, retry_after())),
        status if status.is_client_error() => None,
        _ => Some(Outcome::Good),
    }
}

/// What an error says about its backend. A refused connection says nothing about the model: the
/// backend is down then.
fn of_error(error: &BoxError) -> Option<Outcome> {
    let failure = Failure::find(&**error)?;
    if failure.caused_by::<FirstByteTimeout>().is_some() {
        return Some(Outcome::Bad(Reason::Silent, None));
    }
    let is_down = failure.caused_by::<ConnectFailed>().is_some()
        || failure.caused_by::<ConnectTimeout>().is_some();
    (failure.side() == Side::Upstream && !is_down).then_some(Outcome::Bad(Reason::Failing, None))
}
