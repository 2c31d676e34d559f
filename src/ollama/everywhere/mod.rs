//! Management requests for several servers.
//!
//! A pull, copy or delete with the header [`SERVERS`] goes to all servers that the header names, at
//! the same time. A server that fails does not stop the others, and no request is sent twice. The
//! response is a success only if all servers succeeded. If the client disconnects, all of its
//! requests to servers are cancelled, as a single one would be.

mod failed;
mod lines;
mod log;
mod merged;
mod targets;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use llamatower_layers::body::Guarded;
use llamatower_layers::route::Choice;
use llamatower_layers::{
    BoxError, EndpointTable, Failure, LlmRequest, ModelName, Operation, Record, Replay,
};
use serde_json::json;
use tower::{Service, ServiceExt};

use super::attempt::{AnswerBody, ServerService};
use super::fleet::{Chosen, Concern, Fleet, Managed, UnusableTargets};
use super::{JSON, RefreshAtEnd, whole};
use failed::{FailedServer, ServersFailed, error_text, text_of, timeout_status};
pub(crate) use lines::Event;
pub(crate) use log::AskedServers;
use log::Log;
use targets::{Meant, Reached, unusable};

/// The header that names the servers of a management request: `all`, a number, or names.
pub const SERVERS: HeaderName = HeaderName::from_static("x-llamatower-servers");

/// Limit of a response that is not a stream, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Whether the request is for servers that it names.
pub(super) fn is_meant<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(SERVERS)
}

/// Sends the request to all servers that it names, and merges the responses.
pub(super) async fn manage<S, B>(
    fleet: Arc<Fleet<S>>,
    operation: Operation,
    request: Request<B>,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: ServerService<B>,
    B: Replay + Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    let servers = parts.headers.remove(SERVERS);
    let concern = match operation {
        Operation::Pull => Concern::Install,
        Operation::Copy | Operation::Delete => Concern::Installed,
        _ => return Err(unusable(UnusableTargets::OneServerOnly.into()).into()),
    };
    let llm = LlmRequest::of(&parts.extensions);
    let streams = operation == Operation::Pull && llm.is_none_or(|llm| llm.stream);
    let model = llm.and_then(|llm| llm.model.clone()).unwrap_or_default();
    let model = ModelName::parse(&model).map_err(Failure::from)?;
    let meant = Meant::read(servers.as_ref(), concern).map_err(unusable)?;
    let Reached { chosen, unasked } = meant.choose(&fleet, &model, &parts).await?;
    let requests: Option<Vec<_>> = chosen
        .iter()
        .map(|_| Some(Request::from_parts(parts.clone(), body.replay()?)))
        .collect();
    let requests = requests.ok_or("the body of a management request is not in memory")?;
    let names = chosen.iter().map(|(server, _)| server.clone());
    let log = Log::begin(Record::of(&parts.extensions).cloned(), names.collect());
    let refresh = RefreshAtEnd(fleet.clone());
    if streams {
        let sources = chosen.into_iter().zip(requests);
        let sources =
            sources.map(|((server, choice), request)| (server.clone(), lines::of(choice, request)));
        let answer = merged::answer(sources.collect(), log);
        return Ok(answer.map(|body| AnswerBody::new(Guarded::new(body, refresh))));
    }
    let count = chosen.len() + unasked.len();
    let mut failed = all_failures(chosen, requests).await;
    failed.extend(unasked);
    log.failed(failed.iter().map(|row| &row.server));
    drop(refresh);
    // The next list has the change.
    fleet.refreshed().await;
    if !failed.is_empty() {
        return Err(Failure::from(ServersFailed::new(count, failed)).into());
    }
    Ok(match operation {
        Operation::Pull => whole(JSON, merged::SUCCESS),
        // Ollama answers these without a body.
        _ => {
            let mut answer = whole(JSON, "");
            answer.headers_mut().remove(CONTENT_TYPE);
            answer
        }
    })
}

/// Pulls a model on one server, for the gateway itself. The events end after Ollama's `success`, or
/// with a failure. Dropping them cancels the pull; Ollama keeps what it has loaded.
pub(crate) fn pull_on<S, B>(
    server: &Managed<S>,
    model: &ModelName,
) -> Result<BoxStream<'static, Event>, http::Error>
where
    S: ServerService<B>,
    B: From<Bytes> + Send + 'static,
{
    const PULL: &str = "/api/pull";
    let body = Bytes::from(json!({ "model": model.to_string() }).to_string());
    let request = Request::post(PULL).header(CONTENT_TYPE, JSON);
    let mut request = request.body(B::from(body))?;
    // The layers of the server treat it like a client's pull.
    let route = EndpointTable::ollama().look_up(&Method::POST, PULL);
    route.put_into(request.extensions_mut());
    Ok(lines::of(server.take(), request))
}

/// Sends each request to its server, and waits for all responses.
async fn all_failures<S, B>(chosen: Chosen<S>, requests: Vec<Request<B>>) -> Vec<FailedServer>
where
    S: Service<Request<B>, Response = Response<AnswerBody>, Error = BoxError>,
{
    let calls = chosen.into_iter().zip(requests);
    let calls = calls.map(|((server, choice), request)| async move {
        let failure = failure(choice, request).await;
        failure.map(|(status, reason)| FailedServer {
            server,
            status,
            reason,
        })
    });
    let answers = futures_util::future::join_all(calls).await;
    answers.into_iter().flatten().collect()
}

/// Sends a request to one server; returns why it failed there, and the status if there was one.
async fn failure<S, G, B>(
    choice: Choice<S, G>,
    request: Request<B>,
) -> Option<(Option<StatusCode>, String)>
where
    S: Service<Request<B>, Response = Response<AnswerBody>, Error = BoxError>,
{
    let answer = match choice.service.oneshot(request).await {
        Ok(answer) => answer,
        Err(error) => return Some((timeout_status(&*error), text_of(&*error))),
    };
    let status = answer.status();
    let body = match whole_body(answer.into_body()).await {
        Ok(body) => body,
        Err(reason) => return Some((None, reason)),
    };
    drop(choice.slot);
    match status.is_success() {
        // An error that came after the head has the status of a success.
        true => error_text(&body).map(|reason| (None, reason)),
        false => {
            let reason = error_text(&body);
            let reason = reason.unwrap_or_else(|| format!("it answered with status {status}"));
            Some((Some(status), reason))
        }
    }
}

/// The bytes of a body, or why it cannot be read.
async fn whole_body(mut body: AnswerBody) -> Result<BytesMut, String> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| text_of(&*error))?;
        whole.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if whole.len() > MAX_ANSWER {
            return Err(format!("its response has more than {MAX_ANSWER} bytes"));
        }
    }
    Ok(whole)
}

/// A response that is a stream of lines.
fn ndjson<R>(body: R) -> Response<R>
where
    R: Body,
{
    let mut answer = Response::new(body);
    let content_type = HeaderValue::from_static("application/x-ndjson");
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
