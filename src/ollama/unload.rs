//! Taking a model out of memory, wherever it is.
//!
//! Ollama unloads on a request without a prompt and with a `keep_alive` of zero. Through a
//! gateway that has to reach every server that has the model in memory; and where keys are
//! asked for, it takes the model away from everybody, so it needs an administrator's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use llamatower_layers::api_key::{Identity, Role};
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::route::{Choice, Route};
use llamatower_layers::{BoxError, Fail, Failure, KeepAlive, LlmRequest, Replay, Side};
use tower::{Service, ServiceExt};

use super::attempt::AnswerBody;
use super::fleet::Fleet;

/// The model that a request unloads, if that is what it asks for.
pub(super) fn model_to_unload(extensions: &Extensions) -> Option<ModelName> {
    let request = LlmRequest::of(extensions)?;
    let unloads = request.has_no_prompt
        && request.operation.is_inference()
        && request.keep_alive == Some(KeepAlive::For(Duration::ZERO));
    if !unloads {
        return None;
    }
    ModelName::parse(request.model.as_deref()?).ok()
}

/// Tells every backend that has the model in memory; the client gets the first one's answer.
pub(super) async fn unload<S, B>(
    fleet: Arc<Fleet<S>>,
    model: ModelName,
    request: Request<B>,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: Service<Request<B>, Response = Response<AnswerBody>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Replay + Send + 'static,
{
    if let Some(Identity {
        role: Role::User, ..
    }) = request.extensions().get()
    {
        return Err(Failure::from(UnloadRefused).into());
    }
    let (parts, body) = request.into_parts();
    let having = fleet.take_those_with(&model, &parts).await;
    let copies: Option<Vec<B>> = having.iter().map(|_| body.replay()).collect();
    let copies = copies.filter(|copies| !copies.is_empty());
    let Some(copies) = copies else {
        let routed = Route::new(fleet).oneshot(Request::from_parts(parts, body));
        return Ok(routed.await?.map(AnswerBody::new));
    };
    let calls = having.into_iter().zip(copies).map(|(choice, body)| {
        let request = Request::from_parts(parts.clone(), body);
        whole_answer(choice, request)
    });
    let answers = futures_util::future::join_all(calls).await;
    let (told, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    told.into_iter().chain(failed).next().unwrap_or_else(|| {
        let unreached = StatusCode::BAD_GATEWAY;
        Ok(Response::builder()
            .status(unreached)
            .body(AnswerBody::default())?)
    })
}

async fn whole_answer<S, G, B, R>(
    choice: Choice<S, G>,
    request: Request<B>,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let answer = choice.service.oneshot(request).await.map_err(Into::into)?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    drop(choice.slot);
    let body = Full::new(body).map_err(|never| match never {});
    Ok(Response::from_parts(head, AnswerBody::new(body)))
}

/// A key that may run models may not take them away from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unloading a model takes it away from everybody and needs an administrator's key")]
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
