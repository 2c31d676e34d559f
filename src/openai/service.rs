//! The service in front of the client of one server.

mod future;
mod lists;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use llamatower_layers::body::Buffered;
use llamatower_layers::body_limit::BodyMemoryExhausted;
use llamatower_layers::frames::Framing;
use llamatower_layers::{BoxError, Dialect, Failure, Record};
use tower::Service;

use super::ask::{Answer, Ask, Asked, Translator};
use super::error::{
    InvalidAnswer, InvalidRequest, NoEquivalent, NotOffered, TokenRefused, Untranslatable, text_of,
};
use super::lines::{Clock, Lines, LinesFault, TranslatedBody, broken, unusable};
use super::models;
use super::server::Server;
use super::transcoder::{StreamFault, Transcoder};
use super::whole;

pub use future::TranslateFuture;

/// Limit of an answer that is read as a whole, in bytes.
const MAX_WHOLE: usize = 64 * 1024 * 1024;

/// The pages beside the dialect that the gateway asks for by itself.
const PROBE_PAGES: [&str; 2] = ["/health", "/metrics"];

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Translates between Ollama's dialect and that of an OpenAI-compatible server; does nothing in
/// front of an Ollama server. See the [module](super).
///
/// The paths of requests are those of the route table, without a query.
#[derive(Clone, Debug)]
pub struct Translate<S> {
    inner: S,
    server: Option<Arc<Server>>,
}

impl<S> Translate<S> {
    /// The service in front of `inner`; `server` is `None` if it is an Ollama server.
    pub fn new(inner: S, server: Option<Arc<Server>>) -> Self {
        Self { inner, server }
    }

    /// The client of the server.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Translate<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    B: Buffered + Default + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<TranslatedBody<R>>;
    type Error = BoxError;
    type Future = TranslateFuture<S::Future, Response<TranslatedBody<R>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(server) = &self.server else {
            let inner = self.inner.call(request);
            return TranslateFuture::unaltered(inner);
        };
        let fresh = self.inner.clone();
        let exchange = Exchange {
            client: std::mem::replace(&mut self.inner, fresh),
            server: server.clone(),
            record: Record::of(request.extensions()).cloned(),
        };
        TranslateFuture::translated(exchange.answer(request))
    }
}

/// One request and its answer.
struct Exchange<S> {
    client: S,
    server: Arc<Server>,
    /// Where the time is noted that the server takes after its head.
    record: Option<Record>,
}

/// The wait for what the gateway needs of an answer beside its head. If it is dropped before the end, nobody
/// waits for the answer any more ([`Outcome::unanswered`](llamatower_layers::Outcome::unanswered)).
struct Waiting(Option<Record>);

impl Waiting {
    fn start(record: Option<&Record>) -> Self {
        Self(record.cloned())
    }

    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(record) = &self.0 {
            record.update(|outcome| outcome.unanswered += 1);
        }
    }
}

type Answered<R> = Result<Response<TranslatedBody<R>>, BoxError>;

impl<S> Exchange<S> {
    async fn answer<B, R>(mut self, request: Request<B>) -> Answered<R>
    where
        S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
        B: Buffered + Default,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let path = request.uri().path();
        if path.starts_with("/v1/") {
            return self.pass(request).await;
        }
        match path {
            "/api/chat" | "/api/generate" | "/api/embed" | "/api/embeddings" => {
                self.run(request).await
            }
            "/api/tags" => self.list(request, models::tags).await,
            "/api/ps" => self.list(request, models::ps).await,
            "/api/show" => self.show(request).await,
            // The probe's questions, answered as the server does.
            path if PROBE_PAGES.contains(&path) => self.pass(request).await,
            path => Err(self.not_offered(path)),
        }
    }

    /// Sends a request as it is, but for the type of a JSON body.
    async fn pass<B, R>(&mut self, mut request: Request<B>) -> Answered<R>
    where
        S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
        B: Buffered + Default,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let path: Box<str> = request.uri().path().into();
        name_json(&mut request);
        if !self.server.has_v1()
            && let Some(below) = path.strip_prefix("/v1")
        {
            *request.uri_mut() = uri(below)?;
        }
        let answer = self.client.call(request).await?;
        if PROBE_PAGES.contains(&&*path) {
            return Ok(answer.map(TranslatedBody::unaltered));
        }
        self.check_token(answer.status())?;
        let may_lack_route = matches!(
            answer.status(),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        );
        if !may_lack_route {
            let sent = |body| TranslatedBody::unaltered(body).sent_by(&self.server);
            return Ok(answer.map(sent));
        }
        let (head, body) = answer.into_parts();
        let body = self.read(body).await?;
        if is_about_the_model(head.status, &body) {
            return Ok(Response::from_parts(head, TranslatedBody::whole(body)));
        }
        match path.strip_prefix("/v1/models/") {
            Some(id) => self.model(id).await,
            None => Err(self.not_offered(&path)),
        }
    }

    /// Runs a model for a native request.
    async fn run<B, R>(&mut self, request: Request<B>) -> Answered<R>
    where
        S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
        B: Buffered,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let clock = Clock::start();
        let asked = self.translated(&request, clock)?;
        let mut ask = match asked {
            Asked::Send(ask) => ask,
            Asked::Answered(bytes) => return Ok(whole_answer(StatusCode::OK, bytes)),
            Asked::Unload => return Err(self.not_offered("the unloading of models")),
        };
        let path = self.server.path(ask.path);
        let (mut head, asked) = request.into_parts();
        let body = asked.replaced(std::mem::take(&mut ask.body));
        let body = body.ok_or_else(|| Failure::from(BodyMemoryExhausted))?;
        drop(asked);
        head.uri = uri(&path)?;
        head.method = Method::POST;
        head.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        head.headers
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        head.headers.remove(CONTENT_ENCODING);
        let answer = self.client.call(Request::from_parts(head, body)).await?;
        if !answer.status().is_success() {
            return self.refused(&ask, answer).await;
        }
        let is_stream = Framing::of(answer.headers()) == Some(Framing::Sse);
        match ask.answer {
            Answer::Lines(shape) if is_stream => {
                let transcoder = Transcoder::new(shape, &ask.model);
                let server = self.server.name().clone();
                let lines = Lines::new(answer.into_body(), transcoder, clock, server);
                self.lines(lines).await
            }
            _ => self.whole(&ask, answer, clock).await,
        }
    }

    fn translated<B: Buffered>(
        &self,
        request: &Request<B>,
        clock: Clock,
    ) -> Result<Asked, BoxError> {
        let segments = request.body().segments();
        let segments = segments.ok_or("the body of a request is not in memory")?;
        let joined;
        let body: &[u8] = match segments {
            [only] => only,
            several => {
                joined = several.concat();
                &joined
            }
        };
        let translator = Translator {
            server: &self.server,
            now: clock.now(),
        };
        let asked = match request.uri().path() {
            "/api/chat" => translator.chat(body),
            "/api/generate" => translator.generate(body),
            "/api/embed" => translator.embed(body, Answer::Embed),
            _ => translator.embed(body, Answer::Embedding),
        };
        asked.map_err(|error| match error {
            Untranslatable::Invalid(text) => Failure::from(InvalidRequest(text)).into(),
            Untranslatable::NoEquivalent(part) => {
                let server = self.server.name().clone();
                Failure::from(NoEquivalent { part, server }).into()
            }
        })
    }

    async fn lines<R>(&mut self, lines: Lines<R>) -> Answered<R>
    where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let waiting = Waiting::start(self.record.as_ref());
        let begun = Record::reading(self.record.as_ref(), lines.begin()).await;
        waiting.end();
        let lines = match begun {
            Ok(lines) => lines,
            Err(LinesFault::Failed(error)) => return Err(error),
            Err(LinesFault::Stream(fault)) => return self.faulty(fault),
        };
        let mut answer = Response::new(TranslatedBody::lines(lines).sent_by(&self.server));
        answer.headers_mut().insert(CONTENT_TYPE, LINES);
        Ok(answer)
    }

    /// Translates an answer that is one object. A server may give one although a stream was asked
    /// for; that becomes the only line.
    async fn whole<R>(&mut self, ask: &Ask, answer: Response<R>, clock: Clock) -> Answered<R>
    where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let waiting = Waiting::start(self.record.as_ref());
        let read = self.read(answer.into_body()).await;
        waiting.end();
        let body = read?;
        let now = clock.now();
        let translated = match ask.answer {
            Answer::Lines(shape) | Answer::Whole(shape) => {
                whole::answer(&body, shape, &ask.model, now)
            }
            Answer::Embed => whole::embed(&body, &ask.model, now),
            Answer::Embedding => whole::embedding(&body),
        };
        let mut translated = match translated {
            Ok(translated) => translated,
            Err(fault) => return self.faulty(fault),
        };
        if !matches!(ask.answer, Answer::Lines(_)) {
            return Ok(whole_answer(StatusCode::OK, translated.freeze()));
        }
        translated.extend_from_slice(b"\n");
        let mut answer = whole_answer(StatusCode::OK, translated.freeze());
        answer.headers_mut().insert(CONTENT_TYPE, LINES);
        Ok(answer)
    }

    /// An error that the server has sent with a status of success, before anything else.
    fn faulty<R>(&self, fault: StreamFault) -> Answered<R> {
        match fault {
            StreamFault::Broken(reason) => Err(broken(self.server.name(), reason)),
            StreamFault::Unusable(reason) => Err(unusable(self.server.name(), reason)),
            StreamFault::Error { message, status } => {
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                self.check_token(status)?;
                Ok(error_answer(status, &message))
            }
        }
    }

    /// Translates an error of the server.
    async fn refused<R>(&mut self, ask: &Ask, answer: Response<R>) -> Answered<R>
    where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let (head, body) = answer.into_parts();
        self.check_token(head.status)?;
        if head.status.is_redirection() || head.status.is_informational() {
            let reason = format!("it answered {}", head.status).into();
            let server = self.server.name().clone();
            return Err(Failure::from(InvalidAnswer { reason, server }).into());
        }
        let body = self.read(body).await?;
        if matches!(
            head.status,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        ) {
            return match is_about_the_model(head.status, &body) {
                true => {
                    let text = ask.answer.missing_model(&ask.model);
                    Ok(error_answer(StatusCode::NOT_FOUND, &text))
                }
                false => Err(self.not_offered(&format!("/v1{}", ask.path))),
            };
        }
        let mut answer = error_answer(head.status, &text_of(&body));
        if let Some(wait) = head.headers.get(RETRY_AFTER) {
            answer.headers_mut().insert(RETRY_AFTER, wait.clone());
        }
        Ok(answer)
    }

    async fn read<R>(&mut self, body: R) -> Result<Bytes, BoxError>
    where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let reading = Limited::new(body, MAX_WHOLE).collect();
        let read = Record::reading(self.record.as_ref(), reading).await;
        let read = read.map_err(|error| match error.is::<LengthLimitError>() {
            true => unusable(self.server.name(), "it is larger than 64 MiB"),
            false => error,
        });
        Ok(read?.to_bytes())
    }

    /// The clients' own keys never reach the server, so a refusal concerns the gateway's token.
    fn check_token(&self, status: StatusCode) -> Result<(), BoxError> {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let server = self.server.name().clone();
                Err(Failure::from(TokenRefused { status, server }).into())
            }
            _ => Ok(()),
        }
    }

    fn not_offered(&self, path: &str) -> BoxError {
        let error = NotOffered {
            path: path.into(),
            server: self.server.name().clone(),
        };
        Failure::from(error).into()
    }
}

/// Says of a JSON body that it is one. Ollama does not look at the type, so clients rely on any (curl
/// sends that of a form); other servers refuse such a request or fail.
fn name_json<B: Buffered>(request: &mut Request<B>) {
    let segments = request.body().segments().unwrap_or_default();
    let mut bytes = segments.iter().flatten();
    if bytes.find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return;
    }
    let content_type = request.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next());
    let is_named = essence.is_some_and(|text| text.trim().eq_ignore_ascii_case("application/json"));
    if !is_named {
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
    }
}

/// Whether a 404 means that the model is missing, and not the route. Servers have no common form
/// for either, but a text about a model names it.
fn is_about_the_model(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::NOT_FOUND && text_of(body).to_ascii_lowercase().contains("model")
}

fn uri(path: &str) -> Result<Uri, BoxError> {
    Ok(Uri::from(PathAndQuery::try_from(path)?))
}

fn whole_answer<R>(status: StatusCode, text: impl Into<Bytes>) -> Response<TranslatedBody<R>> {
    let mut answer = Response::new(TranslatedBody::whole(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

fn error_answer<R>(status: StatusCode, text: &str) -> Response<TranslatedBody<R>> {
    Dialect::Ollama
        .error_response(status, text)
        .map(TranslatedBody::whole)
}

#[cfg(test)]
mod tests;
