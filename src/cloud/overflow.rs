//! The layer around the fleet.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{Either, MapOk};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use llamatower_layers::body::ReplayBody;
use llamatower_layers::model_alias::{Alias, Aliases, Asked, KnownModels, ModelAliasLayer};
use llamatower_layers::token_limit::TokensExhausted;
use llamatower_layers::{BoxError, Failure, LlmRequest, ModelName, Operation, Record, Replay};
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt};

use super::{Cloud, Reason, SentToCloud};
use crate::clients::Client;
use crate::clients::model_rules::ModelRules;
use crate::ollama::fleet::{Places, WaitsForBackend};
use crate::ollama::{AnswerBody, Attempt};
use crate::openai::error::TokenRefused;
use crate::stack::MODEL_HEADER;
use crate::telemetry::{Metrics, Provider};

/// Limit of an error response that is kept while the cloud is asked, in bytes.
const MAX_KEPT_BYTES: usize = 64 << 10;
/// The time limit for reading it. Usually it has arrived together with its head.
const KEEP_TIMEOUT: Duration = Duration::from_secs(1);

/// The message of a failure in the log.
const NOT_ANSWERED: &str = "the cloud service has not answered a request";

/// What the layer needs of the gateway; `B` is the body that clients send.
pub(super) struct Overflow<B> {
    pub(super) cloud: Arc<Cloud>,
    leaf: Attempt<ReplayBody<B>>,
    pub(super) rules: ModelRules,
    known: Arc<dyn KnownModels>,
    metrics: Arc<Metrics>,
}

/// Sends requests that the fleet cannot serve to the cloud service; does nothing without one. See the
/// [module](super).
pub struct OverflowLayer<B>(Option<Arc<Overflow<B>>>);

impl<B> OverflowLayer<B> {
    /// Never sends a request to the cloud.
    pub fn off() -> Self {
        Self(None)
    }

    /// Sends requests to `leaf`, the service of `cloud`. An alias of `rules` is sent as one of its
    /// models; `known` tells how long requests would wait for the fleet.
    pub fn new(
        cloud: Arc<Cloud>,
        leaf: Attempt<ReplayBody<B>>,
        rules: ModelRules,
        known: impl KnownModels + 'static,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Some(Arc::new(Overflow {
            cloud,
            leaf,
            rules,
            known: Arc::new(known),
            metrics,
        })))
    }
}

impl<S, B> Layer<S> for OverflowLayer<B> {
    type Service = OverflowService<S, B>;

    fn layer(&self, inner: S) -> OverflowService<S, B> {
        let overflow = self.0.clone();
        OverflowService { inner, overflow }
    }
}

/// The service of [`OverflowLayer`].
pub struct OverflowService<S, B> {
    inner: S,
    overflow: Option<Arc<Overflow<B>>>,
}

impl<S: Clone, B> Clone for OverflowService<S, B> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            overflow: self.overflow.clone(),
        }
    }
}

/// The body of the fleet's answer, or of the cloud's.
pub(super) type OverflowBody<R> = http_body_util::Either<R, AnswerBody>;

pub(super) type Answer<R> = Result<Response<OverflowBody<R>>, BoxError>;

type FromFleet<R> = fn(Response<R>) -> Response<OverflowBody<R>>;

type Sending<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// The left future is the fleet's; the right one may ask the cloud.
type OverflowFuture<F, R> =
    Either<MapOk<F, FromFleet<R>>, Pin<Box<dyn Future<Output = Answer<R>> + Send>>>;

impl<S, B, R> Service<Request<ReplayBody<B>>> for OverflowService<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>, Error = BoxError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    type Response = Response<OverflowBody<R>>;
    type Error = BoxError;
    type Future = OverflowFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReplayBody<B>>) -> Self::Future {
        let Some(overflow) = self.overflow.clone() else {
            return self.pass(request);
        };
        if let Some(trip) = overflow.trip(&request) {
            return Either::Right(Box::pin(trip.answer(self.take(), request)));
        }
        if let Some(stand_in) = overflow.stand_in(request.extensions()) {
            return Either::Right(Box::pin(stand_in.answer(self.take(), request)));
        }
        overflow.add_models(request.extensions_mut());
        self.pass(request)
    }
}

impl<S: Clone, B> OverflowService<S, B> {
    /// The instance whose readiness was polled.
    fn take(&mut self) -> S {
        let fresh = self.inner.clone();
        std::mem::replace(&mut self.inner, fresh)
    }

    /// Leaves a request to the fleet alone.
    fn pass<C, R>(&mut self, request: Request<C>) -> OverflowFuture<S::Future, R>
    where
        S: Service<Request<C>, Response = Response<R>, Error = BoxError>,
    {
        let from_fleet: FromFleet<R> = from_fleet;
        Either::Left(self.inner.call(request).map_ok(from_fleet))
    }
}

pub(super) fn from_fleet<R>(answer: Response<R>) -> Response<OverflowBody<R>> {
    answer.map(http_body_util::Either::Left)
}

impl<B> Overflow<B> {
    /// The models of the fleet that a client means by this name: those of an alias, or the one.
    pub(super) fn models_of(&self, asked: &str) -> Vec<ModelName> {
        match self.rules.models_of(asked) {
            Some(models) => models.into_iter().map(|model| model.name).collect(),
            None => ModelName::parse(asked).into_iter().collect(),
        }
    }

    /// Why a request for one of these models would be sent to the cloud by what the probes have found;
    /// `None` if a server may answer.
    pub(super) fn reason_now(&self, models: &[ModelName]) -> Option<Reason> {
        let is_down = |model: &ModelName| self.known.is_down(model);
        let is_missing = |model: &ModelName| self.known.is_missing(model);
        let is_nowhere = |model: &ModelName| is_down(model) || is_missing(model);
        if models.is_empty() || !models.iter().all(is_nowhere) {
            return None;
        }
        let reason = match models.iter().any(is_down) {
            true => Reason::Down,
            false => Reason::Missing,
        };
        Some(reason).filter(|reason| self.cloud.is_for(*reason))
    }

    /// The way to the cloud for a request; `None` if it may not be sent there.
    fn trip(self: &Arc<Self>, request: &Request<ReplayBody<B>>) -> Option<Trip<B>> {
        let llm = LlmRequest::of(request.extensions())?;
        let is_possible = matches!(
            llm.operation,
            Operation::Generate | Operation::Chat | Operation::Embed
        );
        // A native request without a prompt loads or unloads a model of a server.
        let is_native_load = llm.has_no_prompt && llm.operation != Operation::Embed;
        if !is_possible || is_native_load || !llm.places.has_model() {
            return None;
        }
        self.cloud.clients.check(request.extensions()).ok()?;
        let asked = llm.model.clone()?;
        let (model, there) = self.cloud.target(&asked, &self.rules)?;
        Some(Trip {
            overflow: self.clone(),
            asked,
            model,
            there,
        })
    }
}

/// A request that may be sent to the cloud.
struct Trip<B> {
    overflow: Arc<Overflow<B>>,
    /// The model or alias as the client wrote it.
    asked: Arc<str>,
    /// The fleet's model.
    model: ModelName,
    /// Its name in the cloud.
    there: Arc<str>,
}

impl<B> Trip<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn answer<S, R>(self, mut inner: S, request: Request<ReplayBody<B>>) -> Answer<R>
    where
        S: Service<Request<ReplayBody<B>>, Response = Response<R>, Error = BoxError> + Clone + Send,
        S::Future: Send,
        R: Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        let Some(template) = copy(&request) else {
            return inner.call(request).await.map(from_fleet);
        };
        let record = Record::of(request.extensions()).cloned();
        let (parts, body) = request.into_parts();
        let mut limit = self.wait_limit();
        let is_down = self.is_known_down(&parts);
        let is_too_long =
            !is_down && limit.is_some_and(|limit| self.expected_wait(&parts) > Some(limit));
        let mut request = Request::from_parts(parts, body);
        if is_down {
            if let Some(answer) = self.ask(Some(template), Reason::Down).await {
                return Ok(answer);
            }
            // The knowledge of the fleet may be out of date, and there is no other way left.
            return inner.call(request).await.map(from_fleet);
        }
        if is_too_long {
            if let Some(answer) = self.ask(copy(&template), Reason::Busy).await {
                return Ok(answer);
            }
            limit = None;
        }
        let places = Places::default();
        if limit.is_some() {
            request.extensions_mut().insert(places.clone());
        }
        let answer = match self.within(limit, &mut inner, request).await {
            Some(answer) => answer,
            None => {
                if let Some(answer) = self.ask(copy(&template), Reason::Busy).await {
                    return Ok(answer);
                }
                match copy(&template) {
                    Some(mut request) => {
                        // It goes back to its place in the queue.
                        request.extensions_mut().insert(places);
                        inner.oneshot(request).await
                    }
                    None => Err("the body of a request cannot be sent again".into()),
                }
            }
        };
        let reason = Reason::of(&answer).filter(|reason| self.overflow.cloud.is_for(*reason));
        let Some(reason) = reason else {
            return answer.map(from_fleet);
        };
        // The slot of a server is free while the cloud is asked.
        let kept = Record::reading(record.as_ref(), keep(answer)).await;
        match self.ask(Some(template), reason).await {
            Some(answer) => Ok(answer),
            None => kept,
        }
    }

    /// The longest wait for a slot, if a longer one is a reason to ask the cloud.
    fn wait_limit(&self) -> Option<Duration> {
        let cloud = &self.overflow.cloud;
        let limit = cloud.busy_after.filter(|_| cloud.when.busy);
        limit.filter(|_| cloud.rest.left().is_none())
    }

    /// Whether requests are sent for servers that are down, and no model that could answer is on one
    /// that is up.
    fn is_known_down(&self, request: &Parts) -> bool {
        let overflow = &self.overflow;
        let needs = LlmRequest::of(&request.extensions).map(|llm| llm.needs);
        let mut models = overflow.models_of(&self.asked);
        models.retain(|model| !overflow.known.lacks(model, needs.unwrap_or_default()));
        overflow.reason_now(&models) == Some(Reason::Down)
    }

    /// How long the request would wait for the fleet, as far as it is known. An alias may have other
    /// models, so nothing is known of it.
    fn expected_wait(&self, request: &Parts) -> Option<Duration> {
        if ModelName::parse(&self.asked).ok()? != self.model {
            return None;
        }
        let asked = Asked::new().with_request(request);
        let expected = self.overflow.known.expected(&self.model, &asked)?;
        Duration::try_from_secs_f64(expected.delay).ok()
    }

    /// The fleet's answer; `None` if the request waits for a slot when this time has passed, or comes
    /// back to the queue later, because an attempt has failed. Then it has left the queue.
    async fn within<S, R>(
        &self,
        limit: Option<Duration>,
        inner: &mut S,
        mut request: Request<ReplayBody<B>>,
    ) -> Option<Result<Response<R>, BoxError>>
    where
        S: Service<Request<ReplayBody<B>>, Response = Response<R>, Error = BoxError>,
    {
        let Some(limit) = limit else {
            return Some(inner.call(request).await);
        };
        let waits = WaitsForBackend::default();
        request.extensions_mut().insert(waits.clone());
        let mut fleet = pin!(inner.call(request));
        let mut passing = pin!(sleep(limit));
        // The fleet is polled in this task, so what it waits for changes only here.
        poll_fn(|cx| {
            if let Poll::Ready(answer) = fleet.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            let has_passed = passing.as_mut().poll(cx).is_ready();
            match has_passed && waits.now() && self.overflow.cloud.rest.left().is_none() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// The cloud's answer; `None` if it cannot answer either.
    async fn ask<R>(
        &self,
        request: Option<Request<ReplayBody<B>>>,
        reason: Reason,
    ) -> Option<Response<OverflowBody<R>>> {
        let request = request?;
        let overflow = &self.overflow;
        let count = |result| overflow.metrics.asked_cloud(reason.name(), result);
        if let Some(left) = overflow.cloud.rest.left() {
            count("resting");
            tracing::debug!(?left, "the cloud service rests");
            return None;
        }
        let (parts, body) = request.into_parts();
        let client = Client::of(&parts);
        let request = Request::from_parts(parts, body);
        let record = Record::of(request.extensions()).cloned();
        let before = record.as_ref().map(OfTheFleet::take_from);
        let model = &*self.asked;
        match self.send(request).await {
            Ok(answer) if !is_unavailable(answer.status()) => {
                count("answered");
                if let Some(record) = record {
                    record.update(|outcome| outcome.extensions.insert(SentToCloud(reason)));
                }
                tracing::info!(
                    model,
                    there = &*self.there,
                    reason = reason.name(),
                    "a request is answered by the cloud service"
                );
                return Some(answer.map(http_body_util::Either::Right));
            }
            Ok(answer) => {
                count("failed");
                let status = answer.status().as_u16();
                tracing::warn!(model, status, "{NOT_ANSWERED}");
            }
            Err(error) => self.tell_error(&error, client, count),
        }
        if let Some((record, before)) = record.zip(before) {
            before.put_back(&record);
        }
        None
    }

    /// Counts and logs why the cloud service has not answered. That its tokens are used up is a warning only
    /// once for each window.
    fn tell_error(&self, error: &BoxError, client: Option<Client>, count: impl Fn(&'static str)) {
        let model = &*self.asked;
        let failure = Failure::find(&**error);
        let exhausted = failure.and_then(Failure::caused_by::<TokensExhausted>);
        count(match exhausted {
            Some(_) => "no_tokens",
            None => "failed",
        });
        let warned = &self.overflow.cloud.warned;
        let is_told = exhausted.is_some_and(|exhausted| !warned.is_new(exhausted, client));
        match failure.and_then(Failure::caused_by::<TokenRefused>) {
            Some(_) => tracing::error!("the cloud service refuses the key in GROQ_API_KEY"),
            None if is_told => tracing::debug!(model, %error, "{NOT_ANSWERED}"),
            None => tracing::warn!(model, %error, "{NOT_ANSWERED}"),
        }
    }

    /// Sends a request with the model's name in the cloud; the answer has the name that the client
    /// asked for.
    async fn send(
        &self,
        request: Request<ReplayBody<B>>,
    ) -> Result<Response<AnswerBody>, BoxError> {
        let alias = Alias::renaming(&self.asked, &self.there)?;
        let renaming = ModelAliasLayer::new(Aliases::new([alias])?).with_header(MODEL_HEADER);
        let service = renaming.layer(self.overflow.leaf.clone());
        // Boxed, because the compiler cannot prove that the generic future is `Send`.
        let sending: Sending<_> = Box::pin(service.oneshot(request));
        Ok(sending.await?.map(AnswerBody::new))
    }
}

/// Whether the client should get the fleet's error in place of an answer with this status.
pub(super) fn is_unavailable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404 | 408 | 429 | 498) || status.is_server_error()
}

/// The fleet's failure without what it holds, such as the slot of a server. Of an error response that is too
/// large or too slow the head is kept: its status tells more than an error of the gateway's own.
async fn keep<R>(answer: Result<Response<R>, BoxError>) -> Answer<R>
where
    R: Body<Data = Bytes, Error = BoxError>,
{
    let (mut head, body) = answer?.into_parts();
    let body = timeout(KEEP_TIMEOUT, Limited::new(body, MAX_KEPT_BYTES).collect());
    let body = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        // An outer layer writes a text for the status.
        _ => {
            head.headers.remove(CONTENT_LENGTH);
            head.headers.remove(CONTENT_ENCODING);
            Bytes::new()
        }
    };
    let body = Full::new(body);
    let body = AnswerBody::new(body.map_err(|never| match never {}));
    Ok(Response::from_parts(
        head,
        http_body_util::Either::Right(body),
    ))
}

pub(super) fn copy<B>(request: &Request<ReplayBody<B>>) -> Option<Request<ReplayBody<B>>> {
    let mut copy = Request::new(request.body().replay()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// What the record of a request tells of the attempts at the fleet. The attempt at the cloud writes over it, and
/// if that fails too, the client gets the fleet's error.
struct OfTheFleet {
    backend: Option<Arc<str>>,
    served_model: Option<Arc<str>>,
    choice: Option<Arc<dyn Any + Send + Sync>>,
    provider: Option<Provider>,
}

impl OfTheFleet {
    /// Takes it from the record, which then has no backend.
    fn take_from(record: &Record) -> Self {
        record.update(|outcome| Self {
            backend: outcome.backend.take(),
            served_model: outcome.served_model.clone(),
            choice: outcome.choice.clone(),
            provider: outcome.extensions.get::<Provider>().copied(),
        })
    }

    fn put_back(self, record: &Record) {
        record.update(|outcome| {
            outcome.backend = self.backend;
            outcome.served_model = self.served_model;
            outcome.choice = self.choice;
            match self.provider {
                Some(provider) => outcome.extensions.insert(provider),
                None => outcome.extensions.remove(),
            }
        });
    }
}
