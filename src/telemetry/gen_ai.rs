//! The metrics of requests that run a model, by OpenTelemetry's conventions for GenAI.
//!
//! The gateway is a server for its clients (`gen_ai.server.*`: the whole request, the wait in the
//! queue included) and a client of the backends (`gen_ai.client.*`: from the first attempt to the end
//! of the response). A request that no backend was asked for has no client metrics.

use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::usage::Usage;
use llamatower_layers::{Operation, Outcome};
use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::{KeyValue, StringValue};

use super::attributes::{attribute, time_to_first_chunk};
use super::config::Semconv;
use super::lazily::Lazily;
use super::names;
use super::overhead::overhead;

type Seconds = Histogram<f64>;
type Tokens = Histogram<u64>;

/// The instruments. Those of a version of the conventions that is not used are absent.
pub(super) struct Instruments {
    duration: Seconds,
    first_token: Seconds,
    output_token: Seconds,
    pub(super) queue_wait: Seconds,
    overhead: Seconds,
    client_inference: Option<Seconds>,
    client_operation: Seconds,
    /// Whether all requests count as operations.
    counts_as_operation: bool,
    first_chunk: Vec<Seconds>,
    usage: Option<Consumption>,
    /// Prompts and responses by an attribute.
    token_usage: Option<Tokens>,
}

/// The instruments of tokens since version 0.1.0.
struct Consumption {
    input: Counter<u64>,
    output: Counter<u64>,
    cached: Counter<u64>,
    reasoning: Counter<u64>,
    operation_input: Tokens,
    operation_output: Tokens,
}

/// The attributes of a series.
pub(super) struct Labels {
    pub(super) provider: &'static str,
    pub(super) model: Option<StringValue>,
    /// `None` if no backend was asked.
    pub(super) backend: Option<Arc<str>>,
    /// `error.type` of the gateway as a server.
    pub(super) error: Option<StringValue>,
    /// The same as a client: here a client's error is one, too.
    pub(super) client_error: Option<StringValue>,
}

/// The instruments of requests with equal attributes.
pub(super) struct GenAi {
    duration: Lazily<Seconds>,
    first_token: Lazily<Seconds>,
    output_token: Lazily<Seconds>,
    queue_wait: Lazily<Seconds>,
    overhead: Lazily<Seconds>,
    client: Option<Client>,
}

struct Client {
    durations: Vec<Lazily<Seconds>>,
    first_chunk: Vec<Lazily<Seconds>>,
    input: InOrOut,
    output: InOrOut,
    cached: Option<Lazily<Counter<u64>>>,
    reasoning: Option<Lazily<Counter<u64>>>,
}

/// Tokens of one direction, in all instruments that have them.
struct InOrOut {
    total: Option<Lazily<Counter<u64>>>,
    each: Vec<Lazily<Tokens>>,
}

impl Instruments {
    pub(super) fn new(meter: &Meter, semconv: Semconv) -> Self {
        let (new, old) = (semconv.has_v0_1_0(), semconv.has_v1_41());
        let first_chunk = [
            new.then_some(names::GEN_AI_CLIENT_TIME_TO_FIRST_CHUNK),
            old.then_some(names::GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK),
        ];
        let first_chunk = first_chunk.into_iter().flatten().map(|name| {
            let text = "From sending a request to the first byte of the backend's stream";
            seconds(meter, name, &names::FIRST_TOKEN_SECONDS, text)
        });
        Self {
            duration: seconds(
                meter,
                names::GEN_AI_SERVER_REQUEST_DURATION,
                &names::GEN_AI_SECONDS,
                "From a request's head to the end of its response, by model",
            ),
            first_token: seconds(
                meter,
                names::GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
                &names::FIRST_TOKEN_SECONDS,
                "From a request's head to the first byte of a stream, by model",
            ),
            output_token: seconds(
                meter,
                names::GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
                &names::OUTPUT_TOKEN_SECONDS,
                "Time per output token, by the backend's own clock",
            ),
            queue_wait: seconds(
                meter,
                names::QUEUE_WAIT,
                &names::FIRST_TOKEN_SECONDS,
                "How long requests waited in the gateway for a slot",
            ),
            overhead: seconds(
                meter,
                names::OVERHEAD,
                &names::OVERHEAD_SECONDS,
                "Time of a request in the gateway without waits for the client, a slot or a backend",
            ),
            client_inference: new.then(|| {
                seconds(
                    meter,
                    names::GEN_AI_CLIENT_INFERENCE_DURATION,
                    &names::GEN_AI_SECONDS,
                    "From sending an inference request to the end of its response",
                )
            }),
            client_operation: seconds(
                meter,
                names::GEN_AI_CLIENT_OPERATION_DURATION,
                &names::GEN_AI_SECONDS,
                "From sending a request to the end of its response",
            ),
            counts_as_operation: old,
            first_chunk: first_chunk.collect(),
            usage: new.then(|| Consumption::new(meter)),
            token_usage: old.then(|| {
                let text = "Tokens of prompts and responses, as counted by backends";
                tokens(meter, names::GEN_AI_CLIENT_TOKEN_USAGE, text)
            }),
        }
    }

    /// The series of an operation with these attributes.
    pub(super) fn series(&self, operation: Operation, labels: &Labels) -> GenAi {
        let common = [
            attribute(names::GEN_AI_OPERATION_NAME, Some(operation.name())),
            attribute(names::GEN_AI_PROVIDER_NAME, Some(labels.provider)),
            attribute(names::GEN_AI_REQUEST_MODEL, labels.model.clone()),
            attribute(names::BACKEND, labels.backend.clone()),
        ];
        let common: Vec<_> = common.into_iter().flatten().collect();
        let with = |more: Option<KeyValue>| common.iter().cloned().chain(more);
        let error = attribute(names::ERROR_TYPE, labels.error.clone());
        let operation_alone = attribute(names::GEN_AI_OPERATION_NAME, Some(operation.name()));
        let client_error = attribute(names::ERROR_TYPE, labels.client_error.clone());
        let client = |_| self.client(operation, &common, client_error);
        GenAi {
            duration: Lazily::new(&self.duration, with(error)),
            first_token: Lazily::new(&self.first_token, with(None)),
            output_token: Lazily::new(&self.output_token, with(None)),
            queue_wait: Lazily::new(&self.queue_wait, with(None)),
            // It hardly depends on model and backend.
            overhead: Lazily::new(&self.overhead, operation_alone),
            client: labels.backend.as_ref().map(client),
        }
    }

    fn client(&self, operation: Operation, common: &[KeyValue], error: Option<KeyValue>) -> Client {
        let with = |more: Option<KeyValue>| common.iter().cloned().chain(more);
        let is_inference = operation != Operation::Embed;
        let as_inference = self.client_inference.as_ref().filter(|_| is_inference);
        let as_operation = !is_inference || self.counts_as_operation;
        let durations = as_inference
            .into_iter()
            .chain(as_operation.then_some(&self.client_operation));
        let modality = KeyValue::new(names::GEN_AI_TOKEN_MODALITY, names::MODALITY_UNKNOWN);
        let count = |counter| Lazily::new(counter, with(Some(modality.clone())));
        let usage = self.usage.as_ref();
        let direction = |total, each: Option<&Tokens>, direction| {
            let each = each.map(|tokens| Lazily::new(tokens, with(error.clone())));
            let direction = attribute(names::GEN_AI_TOKEN_TYPE, Some(direction));
            let old = self.token_usage.as_ref();
            let old = old.map(|tokens| Lazily::new(tokens, with(direction)));
            InOrOut {
                total: Option::map(total, count),
                each: each.into_iter().chain(old).collect(),
            }
        };
        Client {
            durations: durations
                .map(|histogram| Lazily::new(histogram, with(error.clone())))
                .collect(),
            first_chunk: (self.first_chunk.iter())
                .map(|histogram| Lazily::new(histogram, with(None)))
                .collect(),
            input: direction(
                usage.map(|usage| &usage.input),
                usage.map(|usage| &usage.operation_input),
                "input",
            ),
            output: direction(
                usage.map(|usage| &usage.output),
                usage.map(|usage| &usage.operation_output),
                "output",
            ),
            cached: usage.map(|usage| count(&usage.cached)),
            reasoning: usage.map(|usage| count(&usage.reasoning)),
        }
    }
}

impl Consumption {
    fn new(meter: &Meter) -> Self {
        let count = |name: &'static str, text: &'static str| {
            let counter = meter.u64_counter(name).with_unit("{token}");
            counter.with_description(text).build()
        };
        Self {
            input: count(
                names::GEN_AI_CLIENT_INPUT_TOKENS,
                "Tokens of prompts, as counted by backends",
            ),
            output: count(
                names::GEN_AI_CLIENT_OUTPUT_TOKENS,
                "Tokens of responses, as counted by backends",
            ),
            cached: count(
                names::GEN_AI_CLIENT_CACHED_TOKENS,
                "Tokens of prompts that the backend took from its cache, if it tells",
            ),
            reasoning: count(
                names::GEN_AI_CLIENT_REASONING_TOKENS,
                "Tokens of responses that are reasoning, if the backend tells",
            ),
            operation_input: tokens(
                meter,
                names::GEN_AI_CLIENT_OPERATION_INPUT_TOKENS,
                "Tokens of the prompt of one request",
            ),
            operation_output: tokens(
                meter,
                names::GEN_AI_CLIENT_OPERATION_OUTPUT_TOKENS,
                "Tokens of the response of one request",
            ),
        }
    }
}

impl GenAi {
    /// Exports the wait in the queue although no request has waited yet.
    pub(super) fn begin(&self) {
        self.queue_wait.bound();
    }

    pub(super) fn record(&self, outcome: &Outcome, was_served: bool) {
        self.duration.record(seconds_of(outcome.duration));
        let is_served_stream = outcome.stream && was_served;
        if let Some(time) = outcome.time_to_first_byte.filter(|_| is_served_stream) {
            self.first_token.record(time.as_secs_f64());
        }
        if let Some(wait) = outcome.queued {
            self.queue_wait.record(wait.as_secs_f64());
        }
        if let Some(overhead) = overhead(outcome) {
            self.overhead.record(overhead.as_secs_f64());
        }
        if let Some(usage) = &outcome.usage
            && let Some(timings) = usage.timings
            && usage.output_tokens > 0
        {
            let one = timings.output.as_secs_f64() / usage.output_tokens as f64;
            self.output_token.record(one);
        }
        if let Some(client) = &self.client {
            client.record(outcome);
        }
    }
}

impl Client {
    fn record(&self, outcome: &Outcome) {
        if let Some(sent) = outcome.first_sent {
            let before = sent.saturating_duration_since(outcome.started);
            let whole = outcome.duration.map(|whole| whole.saturating_sub(before));
            for duration in &self.durations {
                duration.record(seconds_of(whole));
            }
        }
        if let Some(time) = time_to_first_chunk(outcome) {
            for first_chunk in &self.first_chunk {
                first_chunk.record(time.as_secs_f64());
            }
        }
        if let Some(usage) = &outcome.usage {
            self.record_usage(usage);
        }
    }

    /// Only what the backend has told.
    fn record_usage(&self, usage: &Usage) {
        self.input.record(usage.prompt_tokens);
        self.output.record(usage.output_tokens);
        for (counter, tokens) in [
            (&self.cached, usage.cached_prompt_tokens),
            (&self.reasoning, usage.reasoning_tokens),
        ] {
            if let Some((counter, tokens)) = counter.as_ref().zip(tokens) {
                counter.record(tokens);
            }
        }
    }
}

impl InOrOut {
    /// 0 stands for an unknown number: Ollama leaves out a prompt that is in its cache, and
    /// embeddings have no output.
    fn record(&self, tokens: u64) {
        if tokens == 0 {
            return;
        }
        if let Some(total) = &self.total {
            total.record(tokens);
        }
        for each in &self.each {
            each.record(tokens);
        }
    }
}

fn seconds_of(time: Option<Duration>) -> f64 {
    time.unwrap_or_default().as_secs_f64()
}

/// A histogram of seconds.
pub(super) fn seconds(
    meter: &Meter,
    name: &'static str,
    buckets: &[f64],
    text: &'static str,
) -> Seconds {
    let histogram = meter.f64_histogram(name).with_unit("s");
    let histogram = histogram.with_boundaries(buckets.to_vec());
    histogram.with_description(text).build()
}

fn tokens(meter: &Meter, name: &'static str, text: &'static str) -> Tokens {
    let histogram = meter.u64_histogram(name).with_unit("{token}");
    let histogram = histogram.with_boundaries(names::TOKENS.to_vec());
    histogram.with_description(text).build()
}
