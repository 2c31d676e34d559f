//! The service of a chosen backend; it records the result of the request.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response, StatusCode};
use llamatower_layers::clocks::FirstByteTimeout;
use llamatower_layers::queue::Queue;
use llamatower_layers::{BoxError, ErrorCause, Failure, ModelName, Side};
use pin_project_lite::pin_project;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tower::Service;
use tracing::Instrument;

use super::Dispatcher;
use super::flight::Flight;
use super::member::Member;
use super::outlier::{Change, ClientLeft, Outcome, Reason};
use crate::clients::Client;
use crate::ollama::down_clock::ServerDown;
use crate::ollama::upstream::{ConnectFailed, ConnectTimeout};
use crate::reuse::{CallFuture, Reuse};

/// After the client of a load has left, the gateway looks this often whether another one waits.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The service of a chosen backend; it records the result of the request.
///
/// A request that loads its model is sent by a task of its own: if its client leaves, the load goes
/// on while other requests wait for the model. Ollama would abort it with the request.
#[derive(Clone, Debug)]
pub struct Observed<S> {
    inner: Reuse<S>,
    /// `None` if the request runs no model.
    place: Option<Place<S>>,
}

/// The place of a request: its backend, its model and the queue behind it.
#[derive(Debug)]
struct Place<S> {
    member: Arc<Member<S>>,
    flight: Flight,
    queue: Queue<Dispatcher<S>>,
    client: Option<Client>,
}

impl<S> Clone for Place<S> {
    fn clone(&self) -> Self {
        Self {
            member: self.member.clone(),
            flight: self.flight.clone(),
            queue: self.queue.clone(),
            client: self.client.clone(),
        }
    }
}

impl<S: Clone> Observed<S> {
    /// The service of `member`, for a request of `client` that runs a model if it has a `flight`.
    pub(super) fn new(
        member: &Arc<Member<S>>,
        flight: Option<Flight>,
        queue: &Queue<Dispatcher<S>>,
        client: Option<&Client>,
    ) -> Self {
        let place = flight.map(|flight| Place {
            member: member.clone(),
            flight,
            queue: queue.clone(),
            client: client.cloned(),
        });
        Self {
            inner: member.service.clone(),
            place,
        }
    }
}

impl<S, B, R> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError> + Clone,
    S: Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ObservedFuture<S, CallFuture<S, Request<B>>, Response<R>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let awaited = self.place.take().map(Awaited::new);
        let inner = self.inner.call(request);
        match awaited {
            Some(awaited) if awaited.place.flight.loads() => {
                let (send, answer) = oneshot::channel();
                tokio::spawn(load(inner, awaited, send).in_current_span());
                ObservedFuture::Load { answer }
            }
            awaited => ObservedFuture::Direct { inner, awaited },
        }
    }
}

pin_project! {
    /// The future of [`Observed`].
    #[derive(Debug)]
    #[project = ObservedFutureProjected]
    pub enum ObservedFuture<S, F, R> {
        /// The request itself.
        Direct {
            #[pin]
            inner: F,
            awaited: Option<Awaited<S>>,
        },
        /// The response of a task that loads a model.
        Load {
            #[pin]
            answer: oneshot::Receiver<Result<R, BoxError>>,
        },
    }
}

impl<S, F, R> Future for ObservedFuture<S, F, Response<R>>
where
    F: Future<Output = Result<Response<R>, BoxError>>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ObservedFutureProjected::Direct { inner, awaited } => {
                let answer = ready!(inner.poll(cx));
                if let Some(awaited) = awaited.take() {
                    awaited.end(&answer);
                }
                Poll::Ready(answer)
            }
            ObservedFutureProjected::Load { answer } => {
                // The task drops its sender only if it panics.
                let lost = |_| Err("the task that loads the model has panicked".into());
                Poll::Ready(ready!(answer.poll(cx)).unwrap_or_else(lost))
            }
        }
    }
}

/// Sends a request that loads a model, and its response to the client. After the client has left,
/// it goes on while other requests wait for the model.
async fn load<S, F, R>(
    inner: F,
    awaited: Awaited<S>,
    mut client: oneshot::Sender<Result<Response<R>, BoxError>>,
) where
    F: Future<Output = Result<Response<R>, BoxError>>,
{
    let place = awaited.place.clone();
    let mut inner = pin!(inner);
    let answer = tokio::select! {
        biased;
        answer = &mut inner => Some(answer),
        () = client.closed() => loop {
            if place.flight.waiting() == 0 {
                break None;
            }
            tokio::select! {
                answer = &mut inner => break Some(answer),
                () = sleep(LOOK_AGAIN) => {}
            }
        },
    };
    match answer {
        Some(answer) => {
            awaited.end(&answer);
            // If the client has left, this drops the response, which ends the generation.
            let _ = client.send(answer);
        }
        None => drop(awaited),
    }
    let Place { flight, queue, .. } = place;
    drop(flight);
    queue.slots_changed();
}

/// A request until its result is known.
#[derive(Debug)]
pub struct Awaited<S> {
    place: Place<S>,
    sent: Instant,
    is_over: bool,
}

impl<S> Awaited<S> {
    fn new(place: Place<S>) -> Self {
        Self {
            place,
            sent: Instant::now(),
            is_over: false,
        }
    }

    fn end<R>(mut self, answer: &Result<Response<R>, BoxError>) {
        self.is_over = true;
        let now = Instant::now();
        let outcome = match answer {
            Ok(answer) if ErrorCause::of(answer.extensions()).is_some() => None,
            Ok(answer) => of_response(answer.status(), answer.headers()),
            Err(error) => of_error(error),
        };
        let Place {
            member,
            flight,
            queue,
            ..
        } = &self.place;
        if outcome == Some(Outcome::Good) {
            let (has_changed, waiting) = flight.first_byte(now);
            if flight.loads() {
                flight.tell_loaded(member.backend.name());
            }
            if has_changed {
                member.refresh_resident();
            }
            if waiting > 0 {
                queue.slots_changed();
            }
        } else {
            flight.fail();
        }
        if let Some(outcome) = outcome {
            member.record_outcome(flight.model(), outcome, now);
        }
    }
}

impl<S> Drop for Awaited<S> {
    fn drop(&mut self) {
        if !self.is_over {
            let now = Instant::now();
            let Place { member, flight, .. } = &self.place;
            let left = ClientLeft {
                client: self.place.client.clone(),
                waited: now - self.sent,
                expected: flight.grant().first_byte,
            };
            member.record_outcome(flight.model(), Outcome::ClientLeft(left), now);
        }
    }
}

impl<S> Member<S> {
    /// Records the result of a request, and logs if that changes where requests go.
    pub(super) fn record_outcome(&self, model: &ModelName, outcome: Outcome, now: Instant) {
        let backend = self.backend.name();
        match self.outliers.record(model, outcome, now) {
            Change::None => {}
            Change::Avoided(reason) if self.is_held_elsewhere(model) => tracing::warn!(
                %backend, %model, reason = reason.name(),
                "the backend is avoided for this model while another has it"
            ),
            Change::Avoided(reason) => tracing::warn!(
                %backend, %model, reason = reason.name(),
                "the backend has failed with this model, and no other one has it"
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
        || failure.caused_by::<ConnectTimeout>().is_some()
        || failure.caused_by::<ServerDown>().is_some();
    (failure.side() == Side::Upstream && !is_down).then_some(Outcome::Bad(Reason::Failing, None))
}
