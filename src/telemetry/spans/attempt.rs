//! The CLIENT span of each attempt.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::{BoxError, Failure, Record, RouteMatch};
use opentelemetry::KeyValue;
use pin_project_lite::pin_project;
use tower::layer::layer_fn;
use tower::{Layer, Service};
use tracing::Span;
use tracing::instrument::{Instrument, Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::super::attributes::{Provider, bounded, method_name};
use super::super::names;
use super::super::propagation::Propagation;
use super::{HeldSpan, fail, inference};
use crate::ollama::fleet::LatestChoice;

/// The target of an attempt.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The backend's name in the settings.
    pub name: Arc<str>,
    /// The dialect that it uses (`gen_ai.provider.name`).
    pub provider: &'static str,
    /// The beginning of all of its URLs: scheme, host, port and path.
    pub base: Arc<str>,
    /// Its host, without brackets.
    pub address: Arc<str>,
    /// Its port.
    pub port: u16,
}

/// A layer that opens the CLIENT span of each attempt at `upstream`, sends the span's context in
/// `traceparent`, and holds the span until the end of the response. It must be outermost in the
/// service of one backend: outside of the stream clocks, whose errors it records, and of the rules
/// for headers.
pub fn attempt_spans<S>(
    upstream: Upstream,
    propagation: Propagation,
) -> impl Layer<S, Service = AttemptSpans<S>> + Clone {
    let upstream = Arc::new(upstream);
    layer_fn(move |inner| AttemptSpans {
        inner,
        upstream: upstream.clone(),
        propagation,
    })
}

/// A service whose requests have a CLIENT span.
#[derive(Clone, Debug)]
pub struct AttemptSpans<S> {
    inner: S,
    upstream: Arc<Upstream>,
    propagation: Propagation,
}

impl<S, B, RB> Service<Request<B>> for AttemptSpans<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    type Response = Response<AttemptBody<RB>>;
    type Error = BoxError;
    type Future = AttemptFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let provider = Provider(self.upstream.provider);
        Record::update_in(request.extensions(), |outcome| {
            outcome.extensions.insert(provider);
        });
        let span = self.open(&request);
        let context = (!span.is_disabled()).then(|| span.context());
        self.propagation
            .write(context.as_ref(), request.headers_mut());
        let entered = span.enter();
        let answering = self.inner.call(request);
        drop(entered);
        AttemptFuture {
            inner: answering.instrument(span),
        }
    }
}

impl<S> AttemptSpans<S> {
    /// The span. Its parent is the current span: the operation's, or the request's if it runs no
    /// model.
    fn open<B>(&self, request: &Request<B>) -> Span {
        // The macro evaluates the fields only if the span is enabled.
        let span = tracing::debug_span!(
            target: names::SPANS,
            "attempt",
            otel.name = %name(request),
            otel.kind = "client",
            { names::HTTP_REQUEST_METHOD } = method_name(request.method()),
            { names::BACKEND } = &*self.upstream.name,
        );
        if span.is_disabled() {
            return span;
        }
        span.set_attribute(names::SERVER_ADDRESS, self.upstream.address.clone());
        span.set_attribute(names::SERVER_PORT, i64::from(self.upstream.port));
        span.set_attribute(names::URL_FULL, self.url(request.uri().path()));
        Record::update_in(request.extensions(), |outcome| {
            if let Some(resent @ 1..) = outcome.attempts.checked_sub(1) {
                span.set_attribute(names::HTTP_REQUEST_RESEND_COUNT, i64::from(resent));
            }
            let choice = outcome.extensions.get::<LatestChoice>();
            let choice = choice.map(|choice| self.describe(choice));
            let choice = choice.unwrap_or_else(|| vec![self.name()]);
            for attribute in &choice {
                span.set_attribute(attribute.key.clone(), attribute.value.clone());
            }
            inference::attempt_begins(outcome, choice);
        });
        span
    }

    /// The URL of a request. An OpenAI-compatible server may get another path than the gateway, which
    /// is left out.
    fn url(&self, path: &str) -> String {
        let base = &self.upstream.base;
        match self.upstream.provider == names::OLLAMA {
            true => format!("{base}{}", bounded(path)),
            false => base.to_string(),
        }
    }

    fn name(&self) -> KeyValue {
        KeyValue::new(names::BACKEND, self.upstream.name.clone())
    }

    /// Why this backend was chosen: its expected seconds.
    fn describe(&self, choice: &LatestChoice) -> Vec<KeyValue> {
        let terms = &choice.terms;
        vec![
            self.name(),
            KeyValue::new(names::CHOICE_LOAD, terms.load),
            KeyValue::new(names::CHOICE_WAIT, terms.wait),
            KeyValue::new(names::CHOICE_WORK, terms.work),
            KeyValue::new(names::CHOICE_AFFINITY, terms.affinity),
        ]
    }
}

fn name<B>(request: &Request<B>) -> String {
    let method = match method_name(request.method()) {
        names::METHOD_OTHER => "HTTP",
        method => method,
    };
    let route = RouteMatch::of(request.extensions()).and_then(RouteMatch::endpoint);
    match route {
        Some(endpoint) => format!("{method} {}", endpoint.route),
        None => method.to_owned(),
    }
}

fn status(span: &Span, status: StatusCode) {
    span.set_attribute(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()));
    if status.is_client_error() || status.is_server_error() {
        fail(span, status.as_str().to_owned());
    }
}

fn error(span: &Span, error: &BoxError) {
    let failure = Failure::find(&**error);
    fail(span, failure.map_or(names::ERROR_TYPE_OTHER, Failure::kind));
}

pin_project! {
    /// The future of [`AttemptSpans`]. If it is dropped, the span ends without an error.
    #[derive(Debug)]
    pub struct AttemptFuture<F> {
        #[pin]
        inner: Instrumented<F>,
    }
}

impl<F, B, E> Future for AttemptFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body,
{
    type Output = Result<Response<AttemptBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.project().inner;
        let answer = ready!(inner.as_mut().poll(cx));
        let span = inner.span();
        Poll::Ready(match answer {
            Ok(answer) => {
                status(span, answer.status());
                let (head, body) = answer.into_parts();
                let body = AttemptBody::new(body, span.clone());
                Ok(Response::from_parts(head, body))
            }
            Err(cause) => {
                let cause = cause.into();
                error(span, &cause);
                Err(cause)
            }
        })
    }
}

pin_project! {
    /// A body that holds the span of its attempt until its end.
    #[derive(Debug)]
    pub struct AttemptBody<B> {
        #[pin]
        inner: B,
        span: Option<HeldSpan>,
    }
}

impl<B: Body> AttemptBody<B> {
    fn new(inner: B, span: Span) -> Self {
        let goes_on = !span.is_disabled() && !inner.is_end_stream();
        let span = goes_on.then(|| HeldSpan(span));
        Self { inner, span }
    }
}

impl<B> Body for AttemptBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let frame = frame.map(|frame| frame.map_err(Into::into));
        let goes_on = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if this.span.is_some() && (!goes_on || this.inner.is_end_stream()) {
            let span = this.span.take();
            if let (Some(span), Some(Err(cause))) = (span, &frame) {
                error(&span.0, cause);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
