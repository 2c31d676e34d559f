//! Tries the models of an alias in turn.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, response};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;
use tower_service::Service;

use super::body::Rewriting;
use super::error::AliasNotFound;
use super::layer::{Fallback, Observer};
use super::rewrite::{Items, Rewriter};
use super::service::{names, record};
use super::{Candidate, ModelAliasBody};
use crate::body::ReplayBody;
use crate::frames::Framing;
use crate::llm_request::BodyEdits;
use crate::{BoxError, Dialect, ErrorCause, Failure, Operation, Record, Replay};

/// The largest error response that is kept while other models are tried, in bytes.
const MAX_KEPT_BYTES: usize = 64 << 10;
/// The time limit for reading it. Usually it has arrived together with its head.
const KEEP_TIMEOUT: Duration = Duration::from_secs(1);

/// A request for an alias.
pub(super) struct Plan {
    /// The alias as the client wrote it.
    pub(super) alias: Arc<str>,
    /// The alias as it is in the table.
    pub(super) configured: Arc<str>,
    pub(super) observer: Option<Arc<Observer>>,
    /// At least one.
    pub(super) candidates: Vec<Candidate>,
    pub(super) dialect: Dialect,
    pub(super) operation: Operation,
    pub(super) header: Option<HeaderName>,
}

/// Why a model cannot answer, while another may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It is not there.
    Missing,
    /// It is too busy, or its servers fail.
    Unavailable,
}

/// A failure that the client gets if no other model answers.
enum Kept {
    Error(BoxError),
    Response(response::Parts, Bytes),
}

type Answer<R> = Result<Response<R>, BoxError>;

/// The response of the first model that can answer. If none can, the client gets the first failure
/// that another attempt may not meet (busy, failing), or that no model is there.
pub(super) async fn try_in_turn<S, B, R>(
    mut inner: S,
    mut request: Request<ReplayBody<B>>,
    plan: Plan,
) -> Answer<ModelAliasBody<R>>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let of_request = Record::of(request.extensions()).cloned();
    let mut kept: Option<Kept> = None;
    let mut are_missing = true;
    let mut left = plan.candidates.iter();
    let mut is_ready = true;
    while let Some(model) = left.next() {
        let copy = match left.len() {
            0 => None,
            _ => copy(&request),
        };
        BodyEdits::new()
            .with_model(model.text.clone())
            .apply(&mut request);
        record(request.extensions(), &model.text);
        if !std::mem::take(&mut is_ready) {
            poll_fn(|cx| inner.poll_ready(cx))
                .await
                .map_err(Into::into)?;
        }
        let answer = inner.call(request).await.map_err(Into::into);
        let Some(reason) = reason(&answer, plan.operation) else {
            return Ok(plan.finish(answer?, model, of_request.as_ref()).await);
        };
        are_missing &= reason == Reason::Missing;
        tracing::debug!(alias = %plan.alias, model = %model.text, ?reason, "the model cannot answer");
        let Some(next) = copy else {
            return match (kept, are_missing) {
                (Some(kept), _) => kept.into_answer(),
                (None, true) => Err(plan.not_found()),
                (None, false) => Ok(plan.finish(answer?, model, of_request.as_ref()).await),
            };
        };
        plan.report(model, reason);
        request = next;
        if reason == Reason::Unavailable && kept.is_none() {
            let keeping = keep(&plan, answer, model);
            kept = Some(Record::reading(of_request.as_ref(), keeping).await);
        }
    }
    Err(plan.not_found())
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Plan {
    fn report(&self, model: &Candidate, reason: Reason) {
        if let Some(observer) = &self.observer {
            observer(&Fallback {
                alias: &self.configured,
                model,
                reason: reason.name(),
            });
        }
    }

    fn not_found(&self) -> BoxError {
        let alias = self.alias.clone();
        let models = names(&self.candidates);
        Failure::from(AliasNotFound { alias, models }).into()
    }

    /// Names the model in the head, and puts the alias in place of the model in the body.
    async fn finish<R>(
        &self,
        mut answer: Response<R>,
        model: &Candidate,
        record: Option<&Record>,
    ) -> Response<ModelAliasBody<R>>
    where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        self.name_model(answer.headers_mut(), model);
        let names_a_model = self.operation.is_inference() && answer.status().is_success();
        let items = match names_a_model && !answer.body().is_end_stream() {
            true => items(&answer, self.dialect),
            false => None,
        };
        let Some(items) = items else {
            return answer.map(ModelAliasBody::pass_through);
        };
        let (mut head, body) = answer.into_parts();
        let mut body = Rewriting::new(body, Rewriter::new(&self.alias, items));
        let fixing = body.fix_length(&mut head.headers, items);
        Record::reading(record, fixing).await;
        Response::from_parts(head, ModelAliasBody::rewriting(body))
    }

    fn name_model(&self, headers: &mut http::HeaderMap, model: &Candidate) {
        let value = HeaderValue::try_from(&*model.text).ok();
        if let Some((header, value)) = self.header.clone().zip(value) {
            headers.insert(header, value);
        }
    }
}

/// What a response with a model in it consists of.
fn items<R>(answer: &Response<R>, dialect: Dialect) -> Option<Items> {
    let headers = answer.headers();
    let lines = |inside, once| Some(Items::Lines { inside, once });
    match (Framing::of(headers), dialect) {
        (Some(Framing::Sse), Dialect::Anthropic) => lines(Some("message"), true),
        (Some(Framing::Sse), Dialect::Responses) => lines(Some("response"), false),
        (Some(_), _) => lines(None, false),
        (None, _) => is_plain_json(headers).then_some(Items::One),
    }
}

fn is_plain_json(headers: &http::HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next());
    let is_json = essence.is_some_and(|text| text.trim().eq_ignore_ascii_case("application/json"));
    is_json && !headers.contains_key(http::header::CONTENT_ENCODING)
}

/// Whether another model may answer what this one did not.
fn reason<R>(answer: &Answer<R>, operation: Operation) -> Option<Reason> {
    let status = match answer {
        Ok(answer) if ErrorCause::of(answer.extensions()) == Some(ErrorCause::Request) => {
            return None;
        }
        Ok(answer) => answer.status(),
        // An error of an unknown kind is final, as it is for retries.
        Err(error) => {
            let failure = Failure::find(&**error).filter(|failure| !failure.is_final());
            failure?.status()
        }
    };
    match status {
        // On an additional path the server may not know the path.
        StatusCode::NOT_FOUND if operation != Operation::Extra => Some(Reason::Missing),
        StatusCode::TOO_MANY_REQUESTS => Some(Reason::Unavailable),
        status if status.is_server_error() => Some(Reason::Unavailable),
        _ => None,
    }
}

/// Keeps a failure without what it holds, such as the slot of a server. Of an error response that is too
/// large or too slow, or breaks, the head is kept: its status tells more than that of another model.
async fn keep<R>(plan: &Plan, answer: Answer<R>, model: &Candidate) -> Kept
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Kept::Error(error),
    };
    let (mut head, body) = answer.into_parts();
    let body = timeout(KEEP_TIMEOUT, Limited::new(body, MAX_KEPT_BYTES).collect());
    let body = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        // An outer layer can write a text for the status.
        _ => {
            head.headers.remove(CONTENT_LENGTH);
            head.headers.remove(CONTENT_ENCODING);
            Bytes::new()
        }
    };
    plan.name_model(&mut head.headers, model);
    Kept::Response(head, body)
}

impl Kept {
    fn into_answer<R>(self) -> Answer<ModelAliasBody<R>> {
        match self {
            Self::Error(error) => Err(error),
            Self::Response(head, body) => {
                Ok(Response::from_parts(head, ModelAliasBody::whole(body)))
            }
        }
    }
}

fn copy<B>(request: &Request<ReplayBody<B>>) -> Option<Request<ReplayBody<B>>> {
    let mut copy = Request::new(request.body().replay()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}
