//! Reports errors: to the client, the record and the hook.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::AnswerUnfinished;
use super::body::Watch;
use crate::dialect::ErrorText;
use crate::service::Hook;
use crate::shared::Shared;
use crate::{BoxError, Dialect, Ending, Failure, Operation, Record, RouteMatch};

/// How errors are reported.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Called with errors before they become responses.
    pub(super) hook: Option<Hook<ErrorHook>>,
    /// A stream ends cleanly after its error frame.
    pub(super) ends_cleanly: bool,
}

impl Options {
    fn call_hook(&self, error: &BoxError) {
        if let Some(hook) = &self.hook {
            hook(&**error);
        }
    }
}

/// Receives an error.
type ErrorHook = dyn Fn(&(dyn Error + Send + Sync + 'static)) + Send + Sync;

/// The text for the client if the error is not a [`Failure`].
const INTERNAL: &str = "internal error: the gateway could not answer this request";
const INTERNAL_KIND: &str = "internal_error";

/// With `false`, OpenAI's and Anthropic's clients report the error at once. Without it, some of them wait for
/// any `Retry-After`: a caller would get no error before a budget of the day begins anew.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// After a longer `Retry-After` a client is told not to retry by itself.
const LONGEST_CLIENT_WAIT: Duration = Duration::from_secs(60);

pin_project! {
    /// The data of a request until the end of its response, in one box, because futures and bodies
    /// are moved often.
    #[derive(Debug)]
    pub(super) struct WithRequest {
        #[pin]
        cutoff: Option<WaitForCancellationFutureOwned>,
        pub(super) reporter: Reporter,
        pub(super) watch: Option<Watch>,
        // A response with an error status and a body that has had no text so far.
        pub(super) lacks_text: Option<StatusCode>,
    }
}

impl WithRequest {
    pub(super) fn of<B>(
        request: &Request<B>,
        cutoff: Option<&CancellationToken>,
        options: Options,
    ) -> Pin<Box<Self>> {
        Box::pin(Self {
            cutoff: cutoff.map(|token| token.clone().cancelled_owned()),
            reporter: Reporter::of(request, options),
            watch: None,
            lacks_text: None,
        })
    }

    pub(super) fn poll_cutoff(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let cutoff = self.project().cutoff.as_pin_mut();
        cutoff.map_or(Poll::Pending, |cutoff| cutoff.poll(cx))
    }

    /// Watches the response, if it is a stream of items.
    pub(super) fn watch<R: Body>(self: Pin<&mut Self>, answer: &Response<R>) {
        let this = self.project();
        *this.watch = Watch::of(answer, this.reporter);
        let is_open = answer.body().size_hint().exact().is_none() && !this.reporter.is_head;
        *this.lacks_text = Some(answer.status()).filter(|status| is_open && is_error(*status));
    }

    /// Notes a frame of a response that is not watched.
    pub(super) fn note_frame(self: Pin<&mut Self>, frame: &Frame<Bytes>) {
        let this = self.project();
        let has_text = |data: &Bytes| !data.trim_ascii().is_empty();
        if this.lacks_text.is_some() && frame.data_ref().is_some_and(has_text) {
            *this.lacks_text = None;
        }
    }

    /// The error text for a body that has ended without any.
    pub(super) fn missing_text(self: Pin<&mut Self>) -> Option<Bytes> {
        let this = self.project();
        let status = this.lacks_text.take()?;
        Some(this.reporter.text_of(status).into_body())
    }

    pub(super) fn watched(self: Pin<&mut Self>) -> (&mut Option<Watch>, &Reporter) {
        let this = self.project();
        (this.watch, this.reporter)
    }
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// The data for reporting a failed response.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) dialect: Dialect,
    pub(super) operation: Option<Operation>,
    pub(super) is_head: bool,
    request_id: Option<HeaderValue>,
    record: Option<Record>,
    pub(super) options: Options,
}

impl Reporter {
    fn of<B>(request: &Request<B>, options: Options) -> Self {
        let shared = Shared::of(request.extensions());
        let route = shared.and_then(|shared| shared.route.as_ref());
        let dialect = route.map_or(Dialect::Text, RouteMatch::dialect);
        let request_id = match dialect {
            Dialect::Anthropic => request.headers().get("x-request-id").cloned(),
            _ => None,
        };
        Self {
            dialect,
            operation: route.and_then(RouteMatch::operation),
            is_head: request.method() == http::Method::HEAD,
            request_id,
            record: shared.and_then(|shared| shared.record.clone()),
            options,
        }
    }

    /// The error as a response.
    pub(super) fn answer(&self, error: &BoxError) -> Response<Bytes> {
        self.options.call_hook(error);
        let failure = Failure::find(&**error);
        let status = failure.map_or(StatusCode::INTERNAL_SERVER_ERROR, Failure::status);
        self.update(error, |outcome| outcome.status = Some(status));
        let message = message(failure);
        let mut answer = self.dialect.error_response(status, self.text(&message));
        if let Some(failure) = failure {
            let headers = answer.headers_mut();
            failure.write_headers(headers);
            headers.extend(failure.retry_after_field().map(|wait| (RETRY_AFTER, wait)));
            if failure.retry_after() > Some(LONGEST_CLIENT_WAIT) {
                headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
            }
        }
        answer
    }

    /// Whether a response has an error status and an empty body. Ollama's own client treats such a
    /// response as success.
    pub(super) fn lacks_text<R: Body>(&self, answer: &Response<R>) -> bool {
        is_error(answer.status()) && answer.body().is_end_stream() && !self.is_head
    }

    /// The same response with an error text.
    pub(super) fn with_text<R>(&self, answer: Response<R>) -> Response<Bytes> {
        let (mut head, _) = answer.into_parts();
        let (words, body) = self.text_of(head.status).into_parts();
        head.headers.remove(CONTENT_LENGTH);
        head.headers.extend(words.headers);
        Response::from_parts(head, body)
    }

    /// The error for a response that has none: of the backend, or of a service without backends, as the 404 of
    /// an axum router.
    fn text_of(&self, status: StatusCode) -> Response<Bytes> {
        let backend = self.record.as_ref();
        let backend = backend.and_then(|record| record.update(|outcome| outcome.backend.clone()));
        let sender = backend.map_or_else(
            || "server".to_owned(),
            |backend| format!("backend {backend}"),
        );
        let message = format!("the {sender} responded with {status} and no reason");
        self.dialect.error_response(status, self.text(&message))
    }

    /// The error as the last line or event of a stream.
    pub(super) fn frame(&self, error: &BoxError, watch: &Watch) -> Bytes {
        self.broke(error);
        let message = message(Failure::find(&**error));
        let mut so_far = watch.so_far();
        if let Some(model) = self.model() {
            so_far = so_far.or_model(&model);
        }
        self.dialect
            .error_frame(watch.framing, self.text(&message), &so_far)
    }

    /// Whether an error frame is followed by a clean end.
    pub(super) fn ends_cleanly(&self) -> bool {
        // Clients of Responses know the end `response.failed`. Codex shows its text only if the
        // stream ends cleanly after it.
        self.options.ends_cleanly || self.dialect == Dialect::Responses
    }

    fn model(&self) -> Option<Arc<str>> {
        let record = self.record.as_ref()?;
        record.update(|outcome| outcome.model.clone())
    }

    /// The response broke with this error.
    pub(super) fn broke(&self, error: &BoxError) {
        self.options.call_hook(error);
        self.update(error, |outcome| outcome.ending = Ending::Broken);
    }

    /// The error of a stream without its end.
    pub(super) fn unfinished(&self) -> BoxError {
        let record = self.record.as_ref();
        let backend = record.and_then(|record| record.update(|outcome| outcome.backend.clone()));
        Failure::from(AnswerUnfinished { backend }).into()
    }

    /// The backend itself ended its stream with an error.
    pub(super) fn backend_sent_error(&self) {
        if let Some(record) = &self.record {
            record.update(|outcome| {
                outcome.error = Some("backend_error");
                outcome.ending = Ending::Broken;
            });
        }
    }

    fn update(&self, error: &BoxError, change: impl FnOnce(&mut crate::Outcome)) {
        if let Some(record) = &self.record {
            let kind = Failure::find(&**error).map_or(INTERNAL_KIND, Failure::kind);
            record.update(|outcome| {
                outcome.error = Some(kind);
                change(outcome);
            });
        }
    }

    fn text<'a>(&'a self, message: &'a str) -> ErrorText<'a> {
        let request_id = self.request_id.as_ref();
        ErrorText {
            message,
            request_id: request_id.and_then(|id| id.to_str().ok()),
        }
    }
}

fn message(failure: Option<&Failure>) -> String {
    failure.map_or_else(|| INTERNAL.to_owned(), Failure::to_string)
}
