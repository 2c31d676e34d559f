//! The histograms of requests. Requests with equal attributes share a series, so OpenTelemetry
//! hashes the attributes only once. Recording a streamed response costs 1,800 instructions this
//! way, and 14,300 if attributes are created and hashed for each record, a quarter of a small
//! request's total.

use std::collections::hash_map::Entry;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use foldhash::HashMap;
use http::StatusCode;
use llamatower_layers::{Operation, Outcome};
use opentelemetry::metrics::{BoundHistogram, Histogram, Meter};
use opentelemetry::{KeyValue, StringValue};

use super::attributes::{attribute, error_type, method_name};
use super::model_names::ModelNames;
use super::names;

/// Limit of cached series, far above the usual number. Beyond it, series are not cached.
const MOST_SERIES: usize = 4096;

/// Caches the series of requests.
pub(super) struct SeriesCache {
    instruments: Instruments,
    models: Arc<ModelNames>,
    known: RwLock<HashMap<Kind, Arc<Series>>>,
}

struct Instruments {
    http_duration: Histogram<f64>,
    gen_ai_duration: Histogram<f64>,
    first_token: Histogram<f64>,
    output_token: Histogram<f64>,
    tokens: Histogram<u64>,
    queue_wait: Histogram<f64>,
}

/// The attributes by which requests share a series.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    method: &'static str,
    route: Option<Arc<str>>,
    status: Option<StatusCode>,
    error: Option<StringValue>,
    operation: Option<Operation>,
    model: Option<StringValue>,
    backend: Option<Arc<str>>,
}

/// An instrument with its attributes. It is bound at the first record, because a bound one is
/// exported even without a value.
struct Lazily<T> {
    bound: OnceLock<BoundHistogram<T>>,
    instrument: Histogram<T>,
    attributes: Vec<KeyValue>,
}

struct Series {
    http: Lazily<f64>,
    gen_ai: Option<GenAi>,
}

struct GenAi {
    duration: Lazily<f64>,
    first_token: Lazily<f64>,
    output_token: Lazily<f64>,
    queue_wait: Lazily<f64>,
    input_tokens: Lazily<u64>,
    output_tokens: Lazily<u64>,
}

impl SeriesCache {
    pub(super) fn new(meter: &Meter, models: Arc<ModelNames>) -> Self {
        Self {
            instruments: Instruments::new(meter),
            models,
            known: RwLock::default(),
        }
    }

    /// Records a finished request.
    pub(super) fn record(&self, outcome: &Outcome) {
        // Clients choose the names of requests; the fleet knows the models of an alias.
        let model = outcome.served_model.as_ref().or(outcome.model.as_ref());
        let was_served = outcome.status == Some(StatusCode::OK) && outcome.backend.is_some();
        self.series(Kind {
            method: method_name(&outcome.method),
            route: outcome.route().cloned(),
            status: outcome.status,
            error: error_type(outcome),
            operation: outcome.operation().filter(|o| o.is_inference()),
            model: model.map(|model| self.models.label(model, was_served)),
            backend: outcome.backend.clone(),
        })
        .record(outcome, was_served);
    }

    fn series(&self, kind: Kind) -> Arc<Series> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&kind) {
            return series.clone();
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_SERIES {
            known.clear();
        }
        match known.entry(kind) {
            Entry::Occupied(place) => place.get().clone(),
            Entry::Vacant(place) => {
                let series = Arc::new(self.instruments.series(place.key()));
                place.insert(series).clone()
            }
        }
    }
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let seconds = |name: &'static str, buckets: &[f64], text: &'static str| {
            let histogram = meter.f64_histogram(name).with_unit("s");
            let histogram = histogram.with_boundaries(buckets.to_vec());
            histogram.with_description(text).build()
        };
        Self {
            http_duration: seconds(
                names::HTTP_SERVER_REQUEST_DURATION,
                &names::HTTP_SECONDS,
                "From a request's head to the end of its response",
            ),
            gen_ai_duration: seconds(
                names::GEN_AI_SERVER_REQUEST_DURATION,
                &names::GEN_AI_SECONDS,
                "From a request's head to the end of its response, by model",
            ),
            first_token: seconds(
                names::GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
                &names::FIRST_TOKEN_SECONDS,
                "From a request's head to the first byte of a stream, by model",
            ),
            output_token: seconds(
                names::GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
                &names::OUTPUT_TOKEN_SECONDS,
                "Time per output token, by the backend's own clock",
            ),
            tokens: meter
                .u64_histogram(names::GEN_AI_CLIENT_TOKEN_USAGE)
                .with_unit("{token}")
                .with_description("Tokens of prompts and responses, as counted by backends")
                .with_boundaries(names::TOKENS.to_vec())
                .build(),
            queue_wait: seconds(
                names::QUEUE_WAIT,
                &names::FIRST_TOKEN_SECONDS,
                "How long requests waited in the gateway for a slot",
            ),
        }
    }

    fn series(&self, kind: &Kind) -> Series {
        let status = kind.status.map(|status| i64::from(status.as_u16()));
        let http = [
            attribute(names::HTTP_REQUEST_METHOD, Some(kind.method)),
            attribute(names::URL_SCHEME, Some("http")),
            attribute(names::HTTP_ROUTE, kind.route.clone()),
            attribute(names::HTTP_RESPONSE_STATUS_CODE, status),
            attribute(names::ERROR_TYPE, kind.error.clone()),
        ];
        Series {
            http: Lazily::new(&self.http_duration, http.into_iter().flatten()),
            gen_ai: kind.operation.map(|operation| self.gen_ai(operation, kind)),
        }
    }

    fn gen_ai(&self, operation: Operation, kind: &Kind) -> GenAi {
        let common = [
            attribute(names::GEN_AI_OPERATION_NAME, Some(operation.name())),
            attribute(names::GEN_AI_PROVIDER_NAME, Some(names::OLLAMA)),
            attribute(names::GEN_AI_REQUEST_MODEL, kind.model.clone()),
            attribute(names::BACKEND, kind.backend.clone()),
        ];
        let with = |more| common.iter().flatten().cloned().chain(more);
        let error = attribute(names::ERROR_TYPE, kind.error.clone());
        let tokens = |direction| {
            let direction = attribute(names::GEN_AI_TOKEN_TYPE, Some(direction));
            Lazily::new(&self.tokens, with(direction))
        };
        GenAi {
            duration: Lazily::new(&self.gen_ai_duration, with(error)),
            first_token: Lazily::new(&self.first_token, with(None)),
            output_token: Lazily::new(&self.output_token, with(None)),
            queue_wait: Lazily::new(&self.queue_wait, with(None)),
            input_tokens: tokens("input"),
            output_tokens: tokens("output"),
        }
    }
}

impl Series {
    fn record(&self, outcome: &Outcome, was_served: bool) {
        let seconds = outcome.duration.unwrap_or_default().as_secs_f64();
        self.http.record(seconds);
        let Some(gen_ai) = &self.gen_ai else { return };
        gen_ai.duration.record(seconds);
        if let (true, true, Some(time)) = (outcome.stream, was_served, outcome.time_to_first_byte) {
            gen_ai.first_token.record(time.as_secs_f64());
        }
        if let Some(wait) = outcome.queued {
            gen_ai.queue_wait.record(wait.as_secs_f64());
        }
        let Some(usage) = &outcome.usage else { return };
        if usage.prompt_tokens > 0 {
            gen_ai.input_tokens.record(usage.prompt_tokens);
        }
        if usage.output_tokens > 0 {
            gen_ai.output_tokens.record(usage.output_tokens);
            if let Some(timings) = usage.timings {
                let one = timings.output.as_secs_f64() / usage.output_tokens as f64;
                gen_ai.output_token.record(one);
            }
        }
    }
}

impl<T: Clone> Lazily<T> {
    fn new(instrument: &Histogram<T>, attributes: impl Iterator<Item = KeyValue>) -> Self {
        Self {
            bound: OnceLock::new(),
            instrument: instrument.clone(),
            attributes: attributes.collect(),
        }
    }

    fn record(&self, value: T) {
        let bind = || self.instrument.bind(&self.attributes);
        self.bound.get_or_init(bind).record(value);
    }
}
