//! The histograms of requests. Requests that are alike share a series, whose attributes are hashed
//! when its first request ends and not again.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use foldhash::HashMap;
use http::StatusCode;
use llamatower_layers::usage::Usage;
use llamatower_layers::{Operation, Outcome};
use opentelemetry::metrics::{BoundHistogram, Histogram, Meter};
use opentelemetry::{KeyValue, StringValue};

use super::metrics::{error_attribute, route};
use super::model_names::ModelNames;
use super::{method_index, method_name, names};

/// Far more than there are kinds of requests; beyond it all are bound anew.
const MOST_SERIES: usize = 4096;

/// Finds the series of each request.
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

/// What makes requests alike. Texts are known by where they are in memory: the series of the kind
/// holds them, so nothing else can come to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    method: usize,
    status: Option<StatusCode>,
    operation: Option<Operation>,
    was_served: bool,
    route: Option<usize>,
    backend: Option<usize>,
    model: Option<usize>,
}

struct Series {
    _held: [Option<Arc<str>>; 3],
    http: BoundHistogram<f64>,
    gen_ai: Option<GenAi>,
}

/// An instrument with its attributes. It is bound when there is something to record: a bound one is
/// exported, though it has counted nothing.
struct Lazily<T> {
    bound: OnceLock<BoundHistogram<T>>,
    instrument: Histogram<T>,
    attributes: Vec<KeyValue>,
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

    /// Records a request that has ended.
    pub(super) fn record(&self, outcome: &Outcome) {
        let was_served = outcome.status == Some(StatusCode::OK) && outcome.backend.is_some();
        let model = outcome
            .model
            .as_deref()
            .map(|model| self.models.admitted(model, was_served));
        if let Some(error) = error_attribute(outcome) {
            let series = self.instruments.series(outcome, model, Some(error));
            return series.record(outcome, was_served);
        }
        let kind = Kind::of(outcome, &model, was_served);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&kind) {
            return series.record(outcome, was_served);
        }
        drop(known);
        let series = Arc::new(self.instruments.series(outcome, model, None));
        series.record(outcome, was_served);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_SERIES {
            known.clear();
        }
        known.insert(kind, series);
    }
}

impl Hash for Kind {
    /// Most of what tells kinds apart, in two words.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [route, backend, model] =
            [self.route, self.backend, self.model].map(Option::unwrap_or_default);
        let status = self.status.map_or(0, |status| usize::from(status.as_u16()));
        state.write_usize(route ^ backend.rotate_left(32));
        state.write_usize(model ^ status.rotate_left(48));
    }
}

impl Kind {
    fn of(outcome: &Outcome, model: &Option<Option<Arc<str>>>, was_served: bool) -> Self {
        let place = |text: &Arc<str>| text.as_ptr().addr();
        Self {
            method: method_index(&outcome.method),
            status: outcome.status,
            operation: outcome.operation(),
            was_served,
            route: outcome.route().map(place),
            backend: outcome.backend.as_ref().map(place),
            // 0 is where no text is: that of all models that have no label of their own.
            model: model.as_ref().map(|label| label.as_ref().map_or(0, place)),
        }
    }
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let seconds = |name: &'static str, buckets: &[f64], text: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(text)
                .with_boundaries(buckets.to_vec())
                .build()
        };
        Self {
            http_duration: seconds(
                names::HTTP_SERVER_REQUEST_DURATION,
                &names::HTTP_SECONDS,
                "From a request's head to the end of its answer",
            ),
            gen_ai_duration: seconds(
                names::GEN_AI_SERVER_REQUEST_DURATION,
                &names::GEN_AI_SECONDS,
                "From a request's head to the end of its answer, by model",
            ),
            first_token: seconds(
                names::GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
                &names::FIRST_TOKEN_SECONDS,
                "From a request's head to the first byte of a stream, by model",
            ),
            output_token: seconds(
                names::GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
                &names::OUTPUT_TOKEN_SECONDS,
                "A token of an answer, by the backend's own clock",
            ),
            tokens: meter
                .u64_histogram(names::GEN_AI_CLIENT_TOKEN_USAGE)
                .with_unit("{token}")
                .with_description("Tokens of prompts and answers, as backends counted them")
                .with_boundaries(names::TOKENS.to_vec())
                .build(),
            queue_wait: seconds(
                names::QUEUE_WAIT,
                &names::FIRST_TOKEN_SECONDS,
                "How long requests waited in the gateway for a slot",
            ),
        }
    }

    /// The series of a request; `model` is its label, if it names a model.
    fn series(
        &self,
        outcome: &Outcome,
        model: Option<Option<Arc<str>>>,
        error: Option<KeyValue>,
    ) -> Series {
        let mut http = vec![
            KeyValue::new(names::HTTP_REQUEST_METHOD, method_name(&outcome.method)),
            KeyValue::new(names::URL_SCHEME, "http"),
        ];
        http.extend(route(outcome));
        http.extend(outcome.status.map(|status| {
            KeyValue::new(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()))
        }));
        http.extend(error.clone());
        let operation = outcome.operation().filter(|o| o.is_inference());
        Series {
            http: self.http_duration.bind(&http),
            gen_ai: operation.map(|operation| self.gen_ai(operation, outcome, &model, error)),
            _held: [
                outcome.route().cloned(),
                outcome.backend.clone(),
                model.flatten(),
            ],
        }
    }

    fn gen_ai(
        &self,
        operation: Operation,
        outcome: &Outcome,
        model: &Option<Option<Arc<str>>>,
        error: Option<KeyValue>,
    ) -> GenAi {
        let mut attributes = vec![
            KeyValue::new(names::GEN_AI_OPERATION_NAME, operation.name()),
            KeyValue::new(names::GEN_AI_PROVIDER_NAME, names::OLLAMA),
        ];
        attributes.extend(model.as_ref().map(|label| {
            let label = label.clone().map_or(names::OTHER.into(), StringValue::from);
            KeyValue::new(names::GEN_AI_REQUEST_MODEL, label)
        }));
        attributes.extend(
            (outcome.backend.clone()).map(|backend| KeyValue::new(names::BACKEND, backend)),
        );
        let with = |more: Option<KeyValue>| {
            let mut attributes = attributes.clone();
            attributes.extend(more);
            attributes
        };
        let of_type =
            |name: &'static str| with(Some(KeyValue::new(names::GEN_AI_TOKEN_TYPE, name)));
        GenAi {
            duration: Lazily::new(&self.gen_ai_duration, with(error)),
            first_token: Lazily::new(&self.first_token, with(None)),
            output_token: Lazily::new(&self.output_token, with(None)),
            queue_wait: Lazily::new(&self.queue_wait, with(None)),
            input_tokens: Lazily::new(&self.tokens, of_type("input")),
            output_tokens: Lazily::new(&self.tokens, of_type("output")),
        }
    }
}

impl Series {
    fn record(&self, outcome: &Outcome, was_served: bool) {
        let seconds = outcome.duration.unwrap_or_default().as_secs_f64();
        self.http.record(seconds);
        let Some(gen_ai) = &self.gen_ai else { return };
        gen_ai.duration.with(|duration| duration.record(seconds));
        if let (true, true, Some(time)) = (outcome.stream, was_served, outcome.time_to_first_byte) {
            let time = time.as_secs_f64();
            gen_ai
                .first_token
                .with(|first_token| first_token.record(time));
        }
        if let Some(wait) = outcome.queued {
            let wait = wait.as_secs_f64();
            gen_ai.queue_wait.with(|queue_wait| queue_wait.record(wait));
        }
        if let Some(usage) = &outcome.usage {
            gen_ai.record_usage(usage);
        }
    }
}

impl GenAi {
    fn record_usage(&self, usage: &Usage) {
        for (tokens, count) in [
            (&self.input_tokens, usage.prompt_tokens),
            (&self.output_tokens, usage.output_tokens),
        ] {
            if count > 0 {
                tokens.with(|tokens| tokens.record(count));
            }
        }
        if let (Some(timings), 1..) = (usage.timings, usage.output_tokens) {
            let one = timings.output.as_secs_f64() / usage.output_tokens as f64;
            self.output_token
                .with(|output_token| output_token.record(one));
        }
    }
}

impl<T: Clone> Lazily<T> {
    fn new(instrument: &Histogram<T>, attributes: Vec<KeyValue>) -> Self {
        Self {
            bound: OnceLock::new(),
            instrument: instrument.clone(),
            attributes,
        }
    }

    fn with(&self, record: impl FnOnce(&BoundHistogram<T>)) {
        record(
            self.bound
                .get_or_init(|| self.instrument.bind(&self.attributes)),
        );
    }
}
