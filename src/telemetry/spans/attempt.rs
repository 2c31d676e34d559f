//! The CLIENT span of each attempt.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::{BoxError, Failure, Outcome, Record};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context as TraceContext, KeyValue};
use opentelemetry_sdk::trace::Span;
use pin_project_lite::pin_project;
use tower::layer::layer_fn;
use tower::{Layer, Service};
use tracing::instrument::{Instrument, Instrumented};

use super::super::attributes::{Provider, bounded, method_name};
use super::super::names;
use super::super::tracer::Tracer;
use super::Attributes;
use super::inference::{self, InferenceSpan};
use super::request::{self, RequestSpan};
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
/// for headers. A request without a [`Record`] has no span.
pub fn attempt_spans<S>(
    upstream: Upstream,
    tracer: Tracer,
) -> impl Layer<S, Service = AttemptSpans<S>> + Clone {
    let upstream = Arc::new(upstream);
    layer_fn(move |inner| AttemptSpans {
        inner,
        upstream: upstream.clone(),
        tracer: tracer.clone(),
    })
}

/// A service whose requests have a CLIENT span.
#[derive(Clone, Debug)]
pub struct AttemptSpans<S> {
    inner: S,
    upstream: Arc<Upstream>,
    tracer: Tracer,
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
        let span = self.begin(&mut request);
        let logged = tracing::debug_span!(
            target: names::SPANS,
            "attempt",
            { names::HTTP_REQUEST_METHOD } = method_name(request.method()),
            { names::BACKEND } = &*self.upstream.name,
        );
        let entered = logged.enter();
        let answering = self.inner.call(request);
        drop(entered);
        AttemptFuture {
            inner: answering.instrument(logged),
            span: span.map(Box::new),
        }
    }
}

impl<S> AttemptSpans<S> {
    /// Begins the span, and sends the backend its context. Its parent is the operation's span, or the
    /// request's if it runs no model.
    fn begin<B>(&self, request: &mut Request<B>) -> Option<Span> {
        let provider = Provider(self.upstream.provider);
        let record = Record::of(request.extensions());
        let parent = record.and_then(|record| {
            record.update(|outcome| {
                provider.put_into(&mut outcome.extensions);
                parent(outcome)
            })
        });
        let exported = parent.as_ref();
        let exported = exported.filter(|parent| parent.span().span_context().is_sampled());
        let mut span = exported.and_then(|parent| self.tracer.begin(SpanKind::Client, parent));
        if let Some(span) = &mut span {
            span.update_name(request::name(request));
            span.set_attributes(self.describe(request).0);
        }
        let context = span.as_ref().map(|span| span.span_context().clone());
        let context = context.map(|span| TraceContext::new().with_remote_span_context(span));
        // A trace that the sampler leaves out goes on with the request's context.
        let sent = context.as_ref().or(parent.as_ref());
        let headers = request.headers_mut();
        self.tracer.propagation.write(sent, headers);
        span
    }

    /// The attributes. Adds the choice of the server to the operation's span.
    fn describe<B>(&self, request: &Request<B>) -> Attributes {
        let mut span = Attributes::default();
        span.add(names::HTTP_REQUEST_METHOD, method_name(request.method()));
        span.add(names::SERVER_ADDRESS, self.upstream.address.clone());
        span.add(names::SERVER_PORT, i64::from(self.upstream.port));
        span.add(names::URL_FULL, self.url(request.uri().path()));
        Record::update_in(request.extensions(), |outcome| {
            if let Some(resent @ 1..) = outcome.attempts.checked_sub(1) {
                span.add(names::HTTP_REQUEST_RESEND_COUNT, i64::from(resent));
            }
            let choice = LatestChoice::of(outcome);
            let choice = choice.map(|choice| self.explain(choice));
            let choice = choice.unwrap_or_else(|| vec![self.name()]);
            span.0.extend_from_slice(&choice);
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
    fn explain(&self, choice: &LatestChoice) -> Vec<KeyValue> {
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

/// The span below which attempts of a request are.
fn parent(outcome: &Outcome) -> Option<TraceContext> {
    let operation = outcome.extensions.get::<InferenceSpan>();
    let operation = operation.map(|operation| &operation.context);
    let request = || outcome.extensions.get().map(|RequestSpan(request)| request);
    operation.or_else(request).cloned()
}

fn set_status(span: &mut Span, status: StatusCode) {
    let code = i64::from(status.as_u16());
    span.set_attribute(KeyValue::new(names::HTTP_RESPONSE_STATUS_CODE, code));
    if status.is_client_error() || status.is_server_error() {
        fail(span, status.as_str().to_owned());
    }
}

fn set_error(span: &mut Span, error: &BoxError) {
    let failure = Failure::find(&**error);
    fail(span, failure.map_or(names::ERROR_TYPE_OTHER, Failure::kind));
}

fn fail(span: &mut Span, kind: impl Into<opentelemetry::Value>) {
    span.set_attribute(KeyValue::new(names::ERROR_TYPE, kind));
    span.set_status(Status::error(""));
}

pin_project! {
    /// The future of [`AttemptSpans`]. If it is dropped, the span ends without an error.
    #[derive(Debug)]
    pub struct AttemptFuture<F> {
        #[pin]
        inner: Instrumented<F>,
        // Boxed, because it is large, and few requests have one.
        span: Option<Box<Span>>,
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
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let mut span = this.span.take();
        Poll::Ready(match answer {
            Ok(answer) => {
                if let Some(span) = &mut span {
                    set_status(span, answer.status());
                }
                Ok(answer.map(|body| AttemptBody::new(body, span)))
            }
            Err(cause) => {
                let cause = cause.into();
                if let Some(span) = &mut span {
                    set_error(span, &cause);
                }
                Err(cause)
            }
        })
    }
}

pin_project! {
    /// A body that holds the span of its attempt until its end. The span ends when it is dropped.
    #[derive(Debug)]
    pub struct AttemptBody<B> {
        #[pin]
        inner: B,
        span: Option<Box<Span>>,
    }
}

impl<B: Body> AttemptBody<B> {
    fn new(inner: B, span: Option<Box<Span>>) -> Self {
        let span = span.filter(|_| !inner.is_end_stream());
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
            if let (Some(mut span), Some(Err(cause))) = (span, &frame) {
                set_error(&mut span, cause);
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
