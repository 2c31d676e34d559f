//! The core service: a fleet of Ollama servers that acts like a single one.
//!
//! A request for one backend is routed to it. A request that concerns all backends (lists, the
//! version, unloading a model) goes to all, and their responses are merged.

mod alias_not_listed;
mod attempt;
pub mod down_clock;
mod error_cause;
pub mod everywhere;
pub mod fleet;
pub mod hold;
pub mod hygiene;
pub(crate) mod lists;
mod pull;
pub mod rewrite;
pub mod servers_lost;
pub mod tell_limit;
mod unload;
pub mod upstream;
mod with_header;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{Either, MapOk};
use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderValue, Request, Response, request};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use llamatower_layers::body::Guarded;
use llamatower_layers::route::{Choice, RouteFuture, RouteService};
use llamatower_layers::{BoxError, Failure, ModelName, Operation, Replay, RouteMatch};
use tower::{Service, ServiceExt};

use alias_not_listed::AliasNotListed;
use fleet::{Fleet, ModelNotFound, Permit};
use lists::{List, MoreModels};
use unload::Step;

use crate::clients::model_rules::{ModelRules, VisibleModels};

pub use attempt::{AnswerBody, Attempt, ServerService, attempt};

/// The body of a response; it holds the backend's permit until its end.
pub type FleetBody<S> = Guarded<AnswerBody, Box<Permit<S>>>;

type Gathering = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, BoxError>> + Send>>;

/// The left future asks one backend; the right one asks several, or a specific one.
type OllamaFuture<S, B> = Either<RouteFuture<Arc<Fleet<S>>, B>, MapOk<Gathering, Unguarded<S>>>;

type Unguarded<S> = fn(Response<AnswerBody>) -> Response<FleetBody<S>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The version of Ollama whose dialect the gateway speaks for servers that are no Ollama.
const DIALECT_VERSION: &str = "0.33.0";

/// A fleet as one service. `S` is the service of one backend.
#[derive(Debug)]
pub struct Ollama<S> {
    fleet: Arc<Fleet<S>>,
    management_host: usize,
    rules: ModelRules,
}

impl<S> Clone for Ollama<S> {
    fn clone(&self) -> Self {
        Self {
            fleet: self.fleet.clone(),
            management_host: self.management_host,
            rules: self.rules.clone(),
        }
    }
}

impl<S> Ollama<S> {
    /// The service of `fleet`. Requests that change a server's models go to the first backend of
    /// the host with the index `management_host`.
    pub fn new(fleet: Arc<Fleet<S>>, management_host: usize) -> Self {
        Self {
            fleet,
            management_host,
            rules: ModelRules::default(),
        }
    }

    /// Lists the models that clients may use by these rules. By default all are listed, and no
    /// aliases.
    #[must_use]
    pub fn with_rules(mut self, rules: ModelRules) -> Self {
        self.rules = rules;
        self
    }

    /// Whether the name in the path is an alias.
    fn names_an_alias<B>(&self, request: &Request<B>) -> bool {
        let name = parameter(request.extensions());
        name.is_some_and(|name| self.rules.models_of(name).is_some())
    }
}

impl<S, B> Service<Request<B>> for Ollama<S>
where
    S: ServerService<B>,
    B: Replay + Send + 'static,
{
    type Response = Response<FleetBody<S>>;
    type Error = BoxError;
    type Future = OllamaFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> OllamaFuture<S, B> {
        let fleet = self.fleet.clone();
        let listed = |list| {
            let visible = self.rules.visible(request.extensions());
            let more = request.extensions().get().cloned();
            Box::pin(list_of(self.fleet.clone(), list, visible, more))
        };
        let gathering: Gathering =
            match RouteMatch::of(request.extensions()).and_then(RouteMatch::operation) {
                Some(Operation::Root) => Box::pin(async { Ok(whole(TEXT, "Ollama is running")) }),
                Some(Operation::Version) => {
                    Box::pin(version(fleet, request.extensions().get().cloned()))
                }
                Some(Operation::Tags) => listed(List::Tags),
                Some(Operation::Ps) => listed(List::Ps),
                Some(Operation::Models) => listed(List::Models),
                Some(Operation::Pull) if let Some(refused) = pull::refused(&request) => {
                    Box::pin(pull::if_known(fleet, self.rules.clone(), refused, request))
                }
                Some(operation) if operation.is_management() && everywhere::is_meant(&request) => {
                    Box::pin(everywhere::manage(fleet, operation, request))
                }
                Some(Operation::Model) if has_slash(&request) || self.names_an_alias(&request) => {
                    Box::pin(listed_model(
                        fleet,
                        self.rules.clone(),
                        request.into_parts().0,
                    ))
                }
                Some(operation) if operation.is_management() => {
                    Box::pin(manage(fleet, self.management_host, operation, request))
                }
                _ => match unload::step(request.extensions()) {
                    Step::Route => return Either::Left(RouteService::new(fleet).call(request)),
                    Step::Unload(model) => Box::pin(unload::unload(fleet, model, request)),
                    Step::Refuse(failure) => Box::pin(async { Err(failure.into()) }),
                },
            };
        let unguarded: Unguarded<S> = |answer| answer.map(|body| Guarded::maybe(body, None));
        Either::Right(gathering.map_ok(unguarded))
    }
}

fn whole(content_type: HeaderValue, text: impl Into<Bytes>) -> Response<AnswerBody> {
    let body = Full::new(text.into()).map_err(|never| match never {});
    let mut answer = Response::new(AnswerBody::new(body));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

fn boxed<R>(answer: Response<R>) -> Response<AnswerBody>
where
    R: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    answer.map(AnswerBody::new)
}

/// The lowest version of the Ollama servers. If there is none, or if none responds and another service
/// answers in their place, the version of the dialect.
async fn version<S>(
    fleet: Arc<Fleet<S>>,
    more: Option<MoreModels>,
) -> Result<Response<AnswerBody>, BoxError> {
    let own = || whole(JSON, format!("{{\"version\":\"{DIALECT_VERSION}\"}}"));
    let is_replaced = more.is_some_and(|more| !more.if_unreachable.is_empty());
    let mut backends = fleet.backends();
    backends.retain(|backend| backend.openai().is_none());
    let all_down = backends.iter().all(|backend| !backend.is_up());
    if backends.is_empty() || is_replaced && all_down {
        return Ok(own());
    }
    let backends = backends.iter().map(|backend| &**backend);
    match lists::lowest_version(backends, fleet.probe_timeout()).await {
        Err(_) if is_replaced => Ok(own()),
        version => Ok(whole(JSON, version.map_err(Failure::from)?)),
    }
}

async fn list_of<S>(
    fleet: Arc<Fleet<S>>,
    list: List,
    visible: VisibleModels,
    more: Option<MoreModels>,
) -> Result<Response<AnswerBody>, BoxError> {
    let backends = fleet.backends();
    let backends = backends.iter().map(|backend| &**backend);
    let limit = fleet.probe_timeout();
    let page = list.collect(backends, limit, &visible, more.as_ref()).await;
    let content_type = match list {
        List::Models => HeaderValue::from_static("application/json"),
        List::Tags | List::Ps => JSON,
    };
    Ok(whole(content_type, page.map_err(Failure::from)?))
}

/// Whether the model name in the path has a slash. A server's router would split it there, encoded
/// or not, so no server can be asked.
fn has_slash<B>(request: &Request<B>) -> bool {
    parameter(request.extensions()).is_some_and(|name| name.contains('/'))
}

fn parameter(extensions: &Extensions) -> Option<&Arc<str>> {
    match RouteMatch::of(extensions) {
        Some(RouteMatch::Found { parameter, .. }) => parameter.as_ref(),
        _ => None,
    }
}

/// The row of `/v1/models` for the model in the path.
async fn listed_model<S>(
    fleet: Arc<Fleet<S>>,
    rules: ModelRules,
    request: request::Parts,
) -> Result<Response<AnswerBody>, BoxError> {
    let asked = parameter(&request.extensions).cloned().unwrap_or_default();
    let backends = fleet.backends();
    let backends = backends.iter().map(|backend| &**backend);
    let name = ModelName::parse(&asked).map_err(Failure::from)?;
    let models = rules.models_of(&asked);
    let not_found = match &models {
        Some(models) => Failure::from(AliasNotListed::new(&asked, models)),
        None => ModelNotFound::new(&name.to_string()).into(),
    };
    let row = lists::model(&name, &asked, models, backends, fleet.probe_timeout()).await;
    match row.map_err(Failure::from)? {
        Some(row) => Ok(whole(HeaderValue::from_static("application/json"), row)),
        None => Err(not_found.into()),
    }
}

async fn routed<S, B>(
    fleet: Arc<Fleet<S>>,
    request: Request<B>,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: ServerService<B>,
    B: Send + 'static,
{
    Ok(boxed(RouteService::new(fleet).oneshot(request).await?))
}

/// Sends the request to the first backend of one host. When the response has ended, the catalogue
/// is refreshed; the response to a copy or delete waits for it, so that the next list has the change.
async fn manage<S, B>(
    fleet: Arc<Fleet<S>>,
    host: usize,
    operation: Operation,
    request: Request<B>,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: ServerService<B>,
    B: Send + 'static,
{
    let (parts, body) = request.into_parts();
    let Some(Choice { service, slot }) = fleet.take_at(host, &parts) else {
        return routed(fleet, Request::from_parts(parts, body)).await;
    };
    let request = Request::from_parts(parts, body);
    let answer = service.oneshot(request).await?;
    if matches!(operation, Operation::Copy | Operation::Delete) {
        fleet.refresh();
        fleet.refreshed().await;
    }
    let guard = (slot, RefreshAtEnd(fleet));
    Ok(boxed(answer.map(|body| Guarded::new(body, guard))))
}

struct RefreshAtEnd<S>(Arc<Fleet<S>>);

impl<S> Drop for RefreshAtEnd<S> {
    fn drop(&mut self) {
        self.0.refresh();
    }
}
