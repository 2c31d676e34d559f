//! The SERVER span of each request.

use std::task::{Context, Poll};

use http::{HeaderMap, Request, Version, header};
use llamatower_layers::{ClientAddress, Outcome, Record, RouteMatch};
use opentelemetry::trace::TraceContextExt;
use tower::layer::layer_fn;
use tower::{Layer, Service};
use tracing::Span;
use tracing::instrument::{Instrument, Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::super::attributes::{bounded, error_type, method_name};
use super::super::names;
use super::super::propagation::Propagation;
use super::{end, fail, set};
use crate::edge::OverTls;

/// A layer that opens the SERVER span of each request and keeps it in the request's [`Record`], so
/// that both end together. Without a record the span would end at the head of the response, so the
/// layer must be inside the [`OutcomeLayer`](llamatower_layers::OutcomeLayer).
pub(in super::super) fn request_spans<S>(
    propagation: Propagation,
) -> impl Layer<S, Service = RequestSpans<S>> + Clone {
    layer_fn(move |inner| RequestSpans { inner, propagation })
}

/// A service whose requests have a SERVER span.
#[derive(Clone, Debug)]
pub struct RequestSpans<S> {
    inner: S,
    propagation: Propagation,
}

impl<S, B> Service<Request<B>> for RequestSpans<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    /// It is polled inside its span, so that log lines before the response's head belong to the
    /// span.
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let span = self.open(&request);
        let entered = span.enter();
        let answering = self.inner.call(request);
        drop(entered);
        answering.instrument(span)
    }
}

impl<S> RequestSpans<S> {
    fn open<B>(&self, request: &Request<B>) -> Span {
        let span = tracing::debug_span!(
            target: names::SPANS,
            parent: None,
            "request",
            otel.name = %name(request),
            otel.kind = "server",
            { names::HTTP_REQUEST_METHOD } = method_name(request.method()),
            { names::URL_PATH } = bounded(request.uri().path()),
        );
        if span.is_disabled() {
            return span;
        }
        if let Some(parent) = self.propagation.parent(request.headers()) {
            // This fails only if no exporter is set up, and then the parent is not needed.
            let _ = span.set_parent(parent);
        }
        describe(&span, request);
        Record::update_in(request.extensions(), |outcome| {
            outcome.extensions.insert(RequestSpan(span.clone()));
        });
        span
    }
}

/// The span of a request, stored in the extensions of its outcome.
#[derive(Clone)]
struct RequestSpan(Span);

fn name<B>(request: &Request<B>) -> String {
    let method = match method_name(request.method()) {
        names::METHOD_OTHER => "HTTP",
        method => method,
    };
    match route(request) {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    }
}

fn route<B>(request: &Request<B>) -> Option<&std::sync::Arc<str>> {
    let endpoint = RouteMatch::of(request.extensions())?.endpoint()?;
    Some(&endpoint.route)
}

fn describe<B>(span: &Span, request: &Request<B>) {
    let scheme = match request.extensions().get::<OverTls>() {
        Some(OverTls) => "https",
        None => "http",
    };
    span.set_attribute(names::URL_SCHEME, scheme);
    let client = ClientAddress::of(request.extensions());
    set(
        span,
        names::CLIENT_ADDRESS,
        client.map(|client| client.0.to_string()),
    );
    set(span, names::HTTP_ROUTE, route(request).cloned());
    let version = match request.version() {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    };
    set(span, names::NETWORK_PROTOCOL_VERSION, version);
    let agent = text(request.headers(), header::USER_AGENT);
    set(span, names::USER_AGENT_ORIGINAL, agent);
    let host = text(request.headers(), header::HOST).and_then(|host| host.parse().ok());
    let authority: Option<http::uri::Authority> = host;
    if let Some(authority) = authority {
        span.set_attribute(names::SERVER_ADDRESS, authority.host().to_owned());
        set(
            span,
            names::SERVER_PORT,
            authority.port_u16().map(i64::from),
        );
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(bounded(value).to_owned())
}

/// Writes the outcome into the request's span; the span ends with the outcome.
pub(super) fn finish(outcome: &Outcome) {
    let Some(RequestSpan(span)) = outcome.extensions.get() else {
        return;
    };
    let status = outcome.status.map(|status| i64::from(status.as_u16()));
    set(span, names::HTTP_RESPONSE_STATUS_CODE, status);
    let model = outcome.model.as_deref().map(bounded);
    set(span, names::GEN_AI_REQUEST_MODEL, model.map(str::to_owned));
    let served = outcome.served_model.as_deref().map(bounded);
    set(
        span,
        names::GEN_AI_RESPONSE_MODEL,
        served.map(str::to_owned),
    );
    set(span, names::BACKEND, outcome.backend.clone());
    set(span, names::IDENTITY, outcome.identity.clone());
    span.set_attribute(names::ATTEMPTS, i64::from(outcome.attempts));
    span.set_attribute(names::ENDING, outcome.ending.name());
    let id = outcome.request_id().map(bounded);
    set(span, names::REQUEST_ID, id.map(str::to_owned));
    if let Some(kind) = error_type(outcome) {
        fail(span, kind);
    }
    end(span);
}

/// The id of the request's trace, if it is exported.
pub(crate) fn trace_id(outcome: &Outcome) -> Option<String> {
    let RequestSpan(span) = outcome.extensions.get()?;
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_sampled().then(|| span.trace_id().to_string())
}
