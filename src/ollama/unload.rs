//! Unloads a model on all servers.
//!
//! Ollama unloads a model on a request without a prompt and with a `keep_alive` of zero. The
//! gateway sends such a request to every server that has the model in memory. A request with a
//! short `keep_alive` takes the model away from its other users, so it needs an administrator's key
//! if API keys are configured.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use llamatower_layers::api_key::{Identity, Role};
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::route::{Choice, RouteService};
use llamatower_layers::{BoxError, Fail, Failure, KeepAlive, LlmRequest, Replay, Side};
use tower::{Service, ServiceExt};

use super::attempt::{AnswerBody, ServerService};
use super::everywhere::SERVERS;
use super::fleet::{Fleet, Permit};
use crate::clients::model_rules::MayUnload;
use crate::stack::BACKEND_HEADER;

/// How to handle a request that runs a model.
pub(super) enum Step {
    /// Send it to one backend.
    Route,
    /// Send it to all backends that have the model in memory.
    Unload(ModelName),
    /// Refuse it, because it would unload the model for other users.
    Refuse(Failure),
}

/// Decides by the request's extensions.
pub(super) fn step(extensions: &Extensions) -> Step {
    let Some(request) = LlmRequest::of(extensions) else {
        return Step::Route;
    };
    match refusal(request, extensions) {
        Some(failure) => Step::Refuse(failure),
        None => model_to_unload(request).map_or(Step::Route, Step::Unload),
    }
}

/// A model that stays in memory for less than this after its last request is as good as unloaded:
/// the next request of most clients arrives later and waits until the model is loaded again.
const SHORTEST_STAY: Duration = Duration::from_secs(10);

/// The error for a request that would unload a model for other users, if it is one.
///
/// Ollama applies the `keep_alive` of the last request, with or without a prompt, to all users of
/// the model. It also unloads after a number of seconds that is too large for it, and it accepts
/// texts longer than those that are parsed here. So every value that is not clearly long is
/// refused.
fn refusal(request: &LlmRequest, extensions: &Extensions) -> Option<Failure> {
    let refused = match request.keep_alive? {
        KeepAlive::Forever => return None,
        KeepAlive::For(time) if time >= SHORTEST_STAY => return None,
        KeepAlive::For(_) => UnloadRefused.into(),
        KeepAlive::Unclear => InvalidKeepAlive.into(),
    };
    let may_unload = match extensions.get()? {
        Identity {
            role: Role::User, ..
        } => extensions.get::<MayUnload>().is_some(),
        Identity {
            role: Role::Admin, ..
        } => true,
    };
    (!may_unload).then_some(refused)
}

/// The model that a request unloads, if it is an unload request.
fn model_to_unload(request: &LlmRequest) -> Option<ModelName> {
    let unloads = request.has_no_prompt
        && request.operation.is_inference()
        && request.keep_alive == Some(KeepAlive::For(Duration::ZERO));
    if !unloads {
        return None;
    }
    ModelName::parse(request.model.as_deref()?).ok()
}

/// Sends the request to every backend that has the model in memory. The client gets the first
/// response. Its header [`SERVERS`] names the backends that have unloaded the model; it is empty if
/// none had it in memory.
pub(super) async fn unload<S, B>(
    fleet: Arc<Fleet<S>>,
    model: ModelName,
    request: Request<B>,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: ServerService<B>,
    B: Replay + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let holders = fleet.take_all_with_loaded(&model, &parts).await;
    let copies: Option<Vec<B>> = holders.iter().map(|_| body.replay()).collect();
    let copies = copies.filter(|copies| !copies.is_empty());
    let Some(copies) = copies else {
        let routed = RouteService::new(fleet).oneshot(Request::from_parts(parts, body));
        let mut answer = routed.await?.map(AnswerBody::new);
        answer
            .headers_mut()
            .insert(SERVERS, HeaderValue::from_static(""));
        return Ok(answer);
    };
    let calls = holders.into_iter().zip(copies).map(|(choice, body)| {
        let request = Request::from_parts(parts.clone(), body);
        whole_answer(choice, request, &model)
    });
    let answers = futures_util::future::join_all(calls).await;
    let (told, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let servers = servers_of(told.iter().flatten());
    let first = told.into_iter().chain(failed).next().unwrap_or_else(|| {
        let unreached = StatusCode::BAD_GATEWAY;
        Ok(Response::builder()
            .status(unreached)
            .body(AnswerBody::default())?)
    });
    let mut answer = first?;
    answer.headers_mut().extend(servers.map(|it| (SERVERS, it)));
    Ok(answer)
}

/// The names of the servers that have sent these responses with success.
fn servers_of<'a>(answers: impl Iterator<Item = &'a Response<AnswerBody>>) -> Option<HeaderValue> {
    let answers = answers.filter(|answer| answer.status().is_success());
    let names = answers.filter_map(|answer| answer.headers().get(BACKEND_HEADER)?.to_str().ok());
    HeaderValue::try_from(names.collect::<Vec<_>>().join(",")).ok()
}

/// Sends the request to one server. If it has succeeded, the models in the server's memory are read
/// again at once.
async fn whole_answer<S, B, R>(
    choice: Choice<S, Permit<S>>,
    request: Request<B>,
    model: &ModelName,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let answer = choice.service.oneshot(request).await?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    if head.status.is_success() {
        choice.slot.note_unloaded(model);
    }
    drop(choice.slot);
    let body = Full::new(body).map_err(|never| match never {});
    Ok(Response::from_parts(head, AnswerBody::new(body)))
}

/// The key may run models, but not unload them for other users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a keep_alive shorter than {} s unloads the model for all of its users and needs an \
     administrator's key; leave keep_alive out, or send a longer duration like \"5m\"",
    SHORTEST_STAY.as_secs()
)]
struct UnloadRefused;

impl Fail for UnloadRefused {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::FORBIDDEN
    }
    fn kind(&self) -> &'static str {
        "unload_refused"
    }
}

/// The `keep_alive` cannot be read, or is too long for Ollama. What a server would do with it is not
/// known, so it gets no such request of a key that may not unload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "time: invalid duration in keep_alive; write a number of seconds like 300, or a text with a unit \
     like \"5m\" or \"1h30m\""
)]
struct InvalidKeepAlive;

impl Fail for InvalidKeepAlive {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "invalid_keep_alive"
    }
}
