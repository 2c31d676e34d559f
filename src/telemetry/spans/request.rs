//! The SERVER span of each request.

use std::task::{Context, Poll};

use http::{HeaderMap, Request, Version, header};
use llamatower_layers::{ClientAddress, Outcome, OverTls, Record, RouteMatch};
use opentelemetry::Context as TraceContext;
use opentelemetry::trace::{Span as _, TraceContextExt};
use tower::layer::layer_fn;
use tower::{Layer, Service};
use tracing::instrument::{Instrument, Instrumented};

use super::super::attributes::{bounded, error_type, method_name, scheme};
use super::super::names;
use super::super::tracer::Tracer;
use super::Attributes;

/// A layer that opens the SERVER span of each request and keeps it in the request's [`Record`], so
/// that both end together. Without a record the span would end at the head of the response, so the
/// layer must be inside the [`OutcomeLayer`](llamatower_layers::OutcomeLayer).
pub(in super::super) fn request_spans<S>(
    tracer: Tracer,
) -> impl Layer<S, Service = RequestSpans<S>> + Clone {
    layer_fn(move |inner| RequestSpans {
        inner,
        tracer: tracer.clone(),
    })
}

/// A service whose requests have a SERVER span.
#[derive(Clone, Debug)]
pub struct RequestSpans<S> {
    inner: S,
    tracer: Tracer,
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
        self.begin(&request);
        let logged = tracing::debug_span!(
            target: names::SPANS,
            parent: None,
            "request",
            { names::HTTP_REQUEST_METHOD } = method_name(request.method()),
            { names::URL_PATH } = bounded(request.uri().path()),
        );
        let entered = logged.enter();
        let answering = self.inner.call(request);
        drop(entered);
        answering.instrument(logged)
    }
}

impl<S> RequestSpans<S> {
    fn begin<B>(&self, request: &Request<B>) {
        if self.tracer.is_off() {
            return;
        }
        let Some(record) = Record::of(request.extensions()) else {
            return;
        };
        let propagation = self.tracer.propagation;
        let parent = || propagation.parent(request.headers()).unwrap_or_default();
        let Some(mut span) = self.tracer.begin_trace(parent) else {
            return;
        };
        if span.is_recording() {
            span.update_name(name(request));
            span.set_attributes(describe(request).0);
        }
        let span = RequestSpan(TraceContext::new().with_span(span));
        record.update(|outcome| outcome.extensions.insert(span));
    }
}

/// The span of a request, stored in the extensions of its outcome.
#[derive(Clone)]
pub(super) struct RequestSpan(pub(super) TraceContext);

pub(super) fn name<B>(request: &Request<B>) -> String {
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

fn describe<B>(request: &Request<B>) -> Attributes {
    let mut span = Attributes::default();
    span.add(names::HTTP_REQUEST_METHOD, method_name(request.method()));
    span.add(names::URL_PATH, bounded(request.uri().path()).to_owned());
    let over_tls = OverTls::is_in(request.extensions());
    span.add(names::URL_SCHEME, scheme(over_tls));
    let client = ClientAddress::of(request.extensions());
    let client = client.map(|client| client.0.to_string());
    span.add_some(names::CLIENT_ADDRESS, client);
    span.add_some(names::HTTP_ROUTE, route(request).cloned());
    let version = match request.version() {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    };
    span.add_some(names::NETWORK_PROTOCOL_VERSION, version);
    let agent = text(request.headers(), header::USER_AGENT);
    span.add_some(names::USER_AGENT_ORIGINAL, agent);
    let host = text(request.headers(), header::HOST).and_then(|host| host.parse().ok());
    let authority: Option<http::uri::Authority> = host;
    if let Some(authority) = authority {
        span.add(names::SERVER_ADDRESS, authority.host().to_owned());
        let port = authority.port_u16().map(i64::from);
        span.add_some(names::SERVER_PORT, port);
    }
    span
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(bounded(value).to_owned())
}

/// Writes the outcome into the request's span, and ends it.
pub(super) fn finish(outcome: &Outcome) {
    let Some(RequestSpan(context)) = outcome.extensions.get() else {
        return;
    };
    let span = context.span();
    if !span.span_context().is_sampled() {
        return;
    }
    let mut ended = Attributes::default();
    let status = outcome.status.map(|status| i64::from(status.as_u16()));
    ended.add_some(names::HTTP_RESPONSE_STATUS_CODE, status);
    let model = outcome.model.as_deref().map(bounded);
    ended.add_some(names::GEN_AI_REQUEST_MODEL, model.map(str::to_owned));
    let served = outcome.served_model.as_deref().map(bounded);
    ended.add_some(names::GEN_AI_RESPONSE_MODEL, served.map(str::to_owned));
    ended.add_some(names::BACKEND, outcome.backend.clone());
    ended.add_some(names::IDENTITY, outcome.identity.clone());
    ended.add(names::ATTEMPTS, i64::from(outcome.attempts));
    ended.add(names::ENDING, outcome.ending.name());
    let id = outcome.request_id().map(bounded);
    ended.add_some(names::REQUEST_ID, id.map(str::to_owned));
    if let Some(kind) = error_type(outcome) {
        span.set_status(ended.fail(kind));
    }
    span.set_attributes(ended.0);
    span.end();
}

/// The id of the request's trace, if it is exported.
pub(crate) fn trace_id(outcome: &Outcome) -> Option<String> {
    let RequestSpan(context) = outcome.extensions.get()?;
    let span = context.span();
    let span = span.span_context();
    span.is_sampled().then(|| span.trace_id().to_string())
}
