//! The GenAI span of each request that runs a model.
//!
//! It covers the whole operation: the queue, all attempts, and the response to its end. The CLIENT
//! spans of the attempts are below it.

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::{Request, StatusCode};
use llamatower_layers::{Ending, LlmRequest, Outcome, Record};
use opentelemetry::trace::{Span as _, SpanKind, SpanRef, TraceContextExt};
use opentelemetry::{Array, Context as TraceContext, KeyValue, StringValue, Value};
use tower::layer::layer_fn;
use tower::{Layer, Service};
use tracing::Span as LogSpan;
use tracing::instrument::{Instrument, Instrumented};

use super::super::attributes::{Provider, bounded, error_type, time_to_first_chunk};
use super::super::names;
use super::super::tracer::Tracer;
use super::Attributes;
use super::request::RequestSpan;

/// The shortest load that gets an event. Ollama reports a few milliseconds for a model that is in
/// memory.
const SHORTEST_LOAD: Duration = Duration::from_millis(100);

/// A layer that opens the GenAI span of each request that runs a model, and keeps it in the
/// request's [`Record`], so that both end together. It must be inside the
/// [`LlmRequestLayer`](llamatower_layers::llm_request::LlmRequestLayer), and outside of the queue and
/// of the attempts.
pub(in super::super) fn inference_spans<S>(
    tracer: Tracer,
) -> impl Layer<S, Service = InferenceSpans<S>> + Clone {
    layer_fn(move |inner| InferenceSpans {
        inner,
        tracer: tracer.clone(),
    })
}

/// A service whose requests that run a model have a GenAI span.
#[derive(Clone, Debug)]
pub struct InferenceSpans<S> {
    inner: S,
    tracer: Tracer,
}

impl<S, B> Service<Request<B>> for InferenceSpans<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let llm = LlmRequest::of(request.extensions());
        let logged = match llm.filter(|llm| llm.operation.is_inference()) {
            None => LogSpan::none(),
            Some(llm) => {
                self.begin(llm, &request);
                // The macro evaluates the fields only if the span is enabled.
                tracing::debug_span!(
                    target: names::SPANS,
                    "inference",
                    { names::GEN_AI_OPERATION_NAME } = llm.operation.name(),
                    { names::GEN_AI_REQUEST_MODEL } = llm.model.as_deref().map(bounded),
                )
            }
        };
        let entered = logged.enter();
        let answering = self.inner.call(request);
        drop(entered);
        answering.instrument(logged)
    }
}

impl<S> InferenceSpans<S> {
    /// Begins the span, if that of the request is exported.
    fn begin<B>(&self, llm: &LlmRequest, request: &Request<B>) {
        if self.tracer.is_off() {
            return;
        }
        Record::update_in(request.extensions(), |outcome| {
            let Some(RequestSpan(parent)) = outcome.extensions.get() else {
                return;
            };
            if !parent.span().span_context().is_sampled() {
                return;
            }
            let Some(mut span) = self.tracer.begin(SpanKind::Client, parent) else {
                return;
            };
            let (operation, model) = (llm.operation.name(), llm.model.as_deref().map(bounded));
            span.update_name(name(operation, model));
            let mut begun = Attributes::default();
            begun.add(names::GEN_AI_OPERATION_NAME, operation);
            begun.add_some(names::GEN_AI_REQUEST_MODEL, model.map(str::to_owned));
            begun.add(names::GEN_AI_REQUEST_STREAM, llm.stream);
            span.set_attributes(begun.0);
            outcome.extensions.insert(InferenceSpan {
                context: TraceContext::new().with_span(span),
                told: Duration::ZERO,
            });
        });
    }
}

/// The span of a request that runs a model, stored in the extensions of its outcome.
#[derive(Clone)]
pub(super) struct InferenceSpan {
    pub(super) context: TraceContext,
    /// The part of the wait in the queue that has an event.
    told: Duration,
}

fn name(operation: &str, model: Option<&str>) -> String {
    match model {
        Some(model) => format!("{operation} {model}"),
        None => operation.to_owned(),
    }
}

impl InferenceSpan {
    /// Adds the event of a wait that has ended since the last event.
    fn add_wait(&self, queued: Duration) {
        let wait = queued.saturating_sub(self.told);
        if !wait.is_zero() {
            let wait = KeyValue::new(names::QUEUED, wait.as_secs_f64());
            self.context
                .span()
                .add_event(names::EVENT_QUEUE, vec![wait]);
        }
    }
}

/// Adds the end of the wait before an attempt, and why its server was chosen, to the request's span.
pub(super) fn attempt_begins(outcome: &mut Outcome, choice: Vec<KeyValue>) {
    let queued = outcome.queued.unwrap_or_default();
    let Some(operation) = outcome.extensions.get_mut::<InferenceSpan>() else {
        return;
    };
    operation.add_wait(queued);
    operation.told = queued;
    let span = operation.context.span();
    span.add_event(names::EVENT_CHOICE, choice);
}

/// Writes the outcome into the span, and ends it.
pub(super) fn finish(outcome: &Outcome) {
    let Some(operation) = outcome.extensions.get::<InferenceSpan>() else {
        return;
    };
    let span = operation.context.span();
    // A request that got no slot has no attempt after its wait.
    operation.add_wait(outcome.queued.unwrap_or_default());
    let mut ended = Attributes::default();
    // Added once, because an attribute that is added again is exported twice.
    ended.add(names::GEN_AI_PROVIDER_NAME, Provider::of(outcome));
    ended.add(names::ATTEMPTS, i64::from(outcome.attempts));
    let answered = outcome.served_model.as_deref().or(outcome.model.as_deref());
    let answered = answered.filter(|_| outcome.status.is_some_and(|status| status.is_success()));
    let answered = answered.map(|model| bounded(model).to_owned());
    ended.add_some(names::GEN_AI_RESPONSE_MODEL, answered);
    ended.add_some(names::BACKEND, outcome.backend.clone());
    if let Some(usage) = outcome.usage {
        let tokens = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        ended.add(names::GEN_AI_INPUT_TOKENS, tokens(usage.prompt_tokens));
        ended.add(names::GEN_AI_OUTPUT_TOKENS, tokens(usage.output_tokens));
    }
    if matches!(outcome.ending, Ending::Broken | Ending::Cancelled) {
        let error = Array::String(vec![StringValue::from("error")]);
        ended.add(names::GEN_AI_FINISH_REASONS, Value::Array(error));
    }
    add_times(&span, &mut ended, outcome);
    let refused = outcome.status.filter(StatusCode::is_client_error);
    let refused = refused.map(|status| status.as_str().to_owned().into());
    if let Some(kind) = error_type(outcome).or(refused) {
        span.set_status(ended.fail(kind));
    }
    span.set_attributes(ended.0);
    span.end();
}

/// Adds the load and the first chunk.
fn add_times(span: &SpanRef<'_>, ended: &mut Attributes, outcome: &Outcome) {
    let is_answered = outcome.status.is_some_and(|status| status.is_success());
    let answered = outcome.last_answered.zip(outcome.duration);
    let Some((answered, duration)) = answered.filter(|_| is_answered) else {
        return;
    };
    let until_answer = answered.saturating_duration_since(outcome.started);
    let began = SystemTime::now().checked_sub(duration);
    let Some(at) = began.and_then(|began| began.checked_add(until_answer)) else {
        return;
    };
    if let Some(time) = time_to_first_chunk(outcome) {
        ended.add(names::GEN_AI_FIRST_CHUNK, time.as_secs_f64());
        span.add_event_with_timestamp(names::EVENT_FIRST_CHUNK, at, Vec::new());
    }
    let timings = outcome.usage.and_then(|usage| usage.timings);
    let Some(timings) = timings.filter(|timings| timings.load >= SHORTEST_LOAD) else {
        return;
    };
    // The load ends when the server begins with the prompt.
    let until_first_chunk = match outcome.stream {
        true => timings.prompt,
        false => timings.prompt + timings.output,
    };
    if let Some(loaded_at) = at.checked_sub(until_first_chunk) {
        let load = KeyValue::new(names::LOAD_TIME, timings.load.as_secs_f64());
        span.add_event_with_timestamp(names::EVENT_LOADED, loaded_at, vec![load]);
    }
}
