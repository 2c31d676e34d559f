//! Answers about models that the service would run: lists, descriptions, and requests that load one.
//!
//! Chat programs ask for these before they chat. Without an answer they do not go on to the request
//! that the service would answer. The service itself is not asked, so nothing is sent and no tokens
//! are used.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::{BoxError, Dialect, LlmRequest, Operation, Record, RouteMatch};
use tower::Service;

use super::overflow::{Answer, Overflow, copy, from_fleet};
use super::{NAME, Reason};
use crate::ollama::AnswerBody;
use crate::ollama::lists::MoreModels;
use crate::openai::Asked;
use crate::openai::ask::Translator;
use crate::openai::line::Moment;
use crate::openai::models::{self, Model};
use crate::stack::{BACKEND_HEADER, MODEL_HEADER};
use crate::telemetry::Provider;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const OPENAI_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What is asked about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Its description in Ollama's form.
    Show,
    /// Its row in OpenAI's list.
    Row,
    /// Load it.
    Load,
}

/// A request about a model that the service would run.
pub(super) struct StandIn<B> {
    overflow: Arc<Overflow<B>>,
    question: Question,
    /// The model or alias as the client wrote it.
    asked: Arc<str>,
    /// The model's name in the cloud.
    there: Arc<str>,
}

impl<B> Overflow<B> {
    /// Tells the fleet which models its lists may have beside those of the servers.
    pub(super) fn add_models(&self, request: &mut Extensions) {
        let operation = RouteMatch::of(request).and_then(RouteMatch::operation);
        let is_list = matches!(
            operation,
            Some(Operation::Tags | Operation::Models | Operation::Ps | Operation::Version)
        );
        if !is_list {
            return;
        }
        if !self.cloud.would_answer() || self.cloud.clients.check(request).is_err() {
            return;
        }
        let all = || self.cloud.models.names().cloned();
        let listed = all().filter(|model| self.reason_now(std::slice::from_ref(model)).is_some());
        let more = MoreModels {
            listed: listed.collect(),
            if_unreachable: match self.cloud.when.down {
                true => all().collect(),
                false => Vec::new(),
            },
        };
        request.insert(more);
    }

    /// The answer in place of the servers' to a request about a model; `None` if it is no such
    /// request, or the model is not sent to the cloud.
    pub(super) fn stand_in(self: &Arc<Self>, request: &Extensions) -> Option<StandIn<B>> {
        let (question, asked) = question(request)?;
        if !self.cloud.would_answer() {
            return None;
        }
        self.cloud.clients.check(request).ok()?;
        let (_, there) = self.cloud.target(&asked, &self.rules)?;
        Some(StandIn {
            overflow: self.clone(),
            question,
            asked,
            there,
        })
    }
}

/// The question of a request, and the model.
fn question(request: &Extensions) -> Option<(Question, Arc<str>)> {
    if let Some(RouteMatch::Found {
        endpoint,
        parameter: Some(name),
    }) = RouteMatch::of(request)
        && endpoint.operation == Operation::Model
    {
        return Some((Question::Row, name.clone()));
    }
    let llm = LlmRequest::of(request).filter(|llm| llm.dialect == Dialect::Ollama)?;
    let question = match llm.operation {
        Operation::Show => Question::Show,
        Operation::Generate | Operation::Chat if llm.has_no_prompt && llm.places.has_model() => {
            Question::Load
        }
        _ => return None,
    };
    Some((question, llm.model.clone()?))
}

impl<B> StandIn<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The servers' answer, or the one in its place if they are down or do not have the model.
    pub(super) async fn answer<S, R>(
        self,
        mut inner: S,
        request: Request<ReplayBody<B>>,
    ) -> Answer<R>
    where
        S: Service<Request<ReplayBody<B>>, Response = Response<R>, Error = BoxError>,
    {
        let (overflow, template) = (&self.overflow, copy(&request));
        let models = overflow.models_of(&self.asked);
        if overflow.reason_now(&models) == Some(Reason::Down)
            && let Some(answer) = template.as_ref().and_then(|request| self.instead(request))
        {
            return Ok(answer.map(http_body_util::Either::Right));
        }
        let answer = inner.call(request).await;
        let reason = Reason::of(&answer).filter(|reason| overflow.cloud.is_for(*reason));
        let is_replaced = match reason {
            Some(Reason::Busy) => self.question == Question::Load,
            reason => reason.is_some(),
        };
        let instead = template.filter(|_| is_replaced);
        match instead.and_then(|request| self.instead(&request)) {
            Some(answer) => Ok(answer.map(http_body_util::Either::Right)),
            None => answer.map(from_fleet),
        }
    }

    /// The answer in place of the servers'; `None` for a request that only they can answer, such as
    /// one to unload the model.
    fn instead(&self, request: &Request<ReplayBody<B>>) -> Option<Response<AnswerBody>> {
        let model = Model::named(&self.asked);
        let (content_type, text) = match self.question {
            Question::Show => (JSON, models::show_of_cloud(&model).into()),
            Question::Row => (OPENAI_JSON, format!("{}\n", models::row(&model)).into()),
            Question::Load => (JSON, self.loaded(request)?),
        };
        Record::update_in(request.extensions(), |outcome| {
            outcome.backend = Some(NAME.into());
            let provider = Provider(self.overflow.cloud.provider());
            outcome.extensions.insert(provider);
            outcome.choice = None;
        });
        let body = Full::new(text).map_err(|never| match never {});
        let mut answer = Response::new(AnswerBody::new(body));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(BACKEND_HEADER, HeaderValue::from_static(NAME));
        if let Ok(there) = HeaderValue::try_from(&*self.there) {
            headers.insert(MODEL_HEADER, there);
        }
        Some(answer)
    }

    /// The answer to a request that loads the model: it can be used.
    fn loaded(&self, request: &Request<ReplayBody<B>>) -> Option<Bytes> {
        let translator = Translator {
            server: &self.overflow.cloud.server,
            now: Moment {
                elapsed: Duration::from_nanos(1),
                wall: Timestamp::now(),
            },
        };
        let body = request.body().segments()?.concat();
        let operation = LlmRequest::of(request.extensions())?.operation;
        let asked = match operation {
            Operation::Chat => translator.chat(&body),
            _ => translator.generate(&body),
        };
        match asked {
            Ok(Asked::Answered(text)) => Some(text),
            _ => None,
        }
    }
}
