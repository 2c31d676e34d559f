//! The instruments, and what is recorded in them.
//!
//! One set of instruments feeds the Prometheus page and OTLP. A record is made when a request
//! starts and when it ends, never for a chunk. Attribute values are static or shared strings,
//! so a record allocates nothing; finding its series is one look-up in the SDK.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::StatusCode;
use llamatower_layers::breaker::State;
use llamatower_layers::usage::Usage;
use llamatower_layers::{Ending, Outcome};
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, StringValue};
use smallvec::SmallVec;

use super::model_names::ModelNames;
use super::{method_name, names, process};

/// What the fleet says of one backend when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRow {
    /// The backend's name in the settings.
    pub name: Arc<str>,
    /// Whether it is in service.
    pub is_up: bool,
    /// How many requests it is busy with.
    pub in_flight: u64,
    /// How many it is sent at a time for one model, if that is bounded.
    pub slots: Option<u64>,
    /// How its breaker stands.
    pub breaker: State,
}

/// What the fleet says of the requests for one model when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// The model.
    pub model: Arc<str>,
    /// How many of its requests wait for a slot.
    pub waiting: u64,
}

type Backends = Arc<RwLock<Option<Box<dyn Fn() -> Vec<BackendRow> + Send + Sync>>>>;
type Queue = Arc<RwLock<Option<Box<dyn Fn() -> Vec<QueueRow> + Send + Sync>>>>;

/// The attributes of one record, on the stack.
type Attributes = SmallVec<[KeyValue; 6]>;

/// The instruments.
pub struct Metrics {
    http_duration: Histogram<f64>,
    http_active: UpDownCounter<i64>,
    gen_ai_duration: Histogram<f64>,
    first_token: Histogram<f64>,
    output_token: Histogram<f64>,
    tokens: Histogram<u64>,
    retries: Counter<u64>,
    refusals: Counter<u64>,
    rate_limited: Counter<u64>,
    cancelled: Counter<u64>,
    queue_wait: Histogram<f64>,
    models: Arc<ModelNames>,
    backends: Backends,
    queue: Queue,
}

impl Metrics {
    pub(super) fn new(meter: &Meter, version: &'static str) -> Self {
        let backends = Backends::default();
        observe_backends(meter, &backends);
        let queue = Queue::default();
        let models = Arc::<ModelNames>::default();
        observe_queue(meter, &queue, &models);
        observe_build(meter, version);
        process::observe(meter);
        let seconds = |name: &'static str, buckets: &[f64], text: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(text)
                .with_boundaries(buckets.to_vec())
                .build()
        };
        let count = |name: &'static str, text: &'static str| {
            let counter = meter.u64_counter(name).with_unit("{request}");
            counter.with_description(text).build()
        };
        Self {
            http_duration: seconds(
                names::HTTP_SERVER_REQUEST_DURATION,
                &names::HTTP_SECONDS,
                "From a request's head to the end of its answer",
            ),
            http_active: meter
                .i64_up_down_counter(names::HTTP_SERVER_ACTIVE_REQUESTS)
                .with_unit("{request}")
                .with_description("Requests under way, streams included")
                .build(),
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
            retries: count(names::RETRIES, "Attempts that were repeated"),
            refusals: count(names::REFUSALS, "Requests that the gateway refused itself"),
            rate_limited: count(names::RATE_LIMITED, "Requests refused with 429"),
            cancelled: count(
                names::CANCELLED,
                "Requests whose client went away before the end",
            ),
            queue_wait: seconds(
                names::QUEUE_WAIT,
                &names::FIRST_TOKEN_SECONDS,
                "How long requests waited in the gateway for a slot",
            ),
            models,
            backends,
            queue,
        }
    }

    /// Asks `is_known` whether a model may be a label; without it the first
    /// 200 models that backends have answered for are. 200 is the bound in either case.
    pub fn set_known_models(&self, is_known: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.models.set_known(Arc::new(is_known));
    }

    /// Asks `rows` for the state of all backends at each export.
    pub fn set_backends(&self, rows: impl Fn() -> Vec<BackendRow> + Send + Sync + 'static) {
        let mut backends = self
            .backends
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *backends = Some(Box::new(rows));
    }

    /// Asks `rows` for what waits at each export.
    pub fn set_queue(&self, rows: impl Fn() -> Vec<QueueRow> + Send + Sync + 'static) {
        let mut queue = self.queue.write().unwrap_or_else(PoisonError::into_inner);
        *queue = Some(Box::new(rows));
    }

    /// An attempt is repeated, for a reason of fixed spelling
    /// ([`Failure::kind`](llamatower_layers::Failure::kind)).
    pub fn retried(&self, reason: &'static str) {
        let reason = KeyValue::new(names::REASON, reason);
        self.retries.add(1, &[reason]);
    }

    pub(super) fn started(&self, outcome: &Outcome) {
        self.http_active.add(1, &active_attributes(outcome));
    }

    pub(super) fn finished(&self, outcome: &Outcome) {
        self.http_active.add(-1, &active_attributes(outcome));
        self.record_http(outcome);
        self.record_gen_ai(outcome);
        self.count(outcome);
    }

    fn record_http(&self, outcome: &Outcome) {
        let mut attributes = Attributes::from_iter(active_attributes(outcome));
        attributes.extend(route(outcome));
        attributes.extend(outcome.status.map(|status| {
            KeyValue::new(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()))
        }));
        attributes.extend(error_attribute(outcome));
        self.http_duration.record(seconds(outcome), &attributes);
    }

    fn record_gen_ai(&self, outcome: &Outcome) {
        let Some(operation) = outcome.operation().filter(|o| o.is_inference()) else {
            return;
        };
        let was_served = outcome.status == Some(StatusCode::OK) && outcome.backend.is_some();
        let mut attributes = Attributes::from_iter([
            KeyValue::new(names::GEN_AI_OPERATION_NAME, operation.name()),
            KeyValue::new(names::GEN_AI_PROVIDER_NAME, names::OLLAMA),
        ]);
        attributes.extend(outcome.model.as_deref().map(|model| {
            let label = self.models.label(model, was_served);
            KeyValue::new(names::GEN_AI_REQUEST_MODEL, label)
        }));
        attributes.extend(
            (outcome.backend.clone()).map(|backend| KeyValue::new(names::BACKEND, backend)),
        );
        if let (true, true, Some(time)) = (outcome.stream, was_served, outcome.time_to_first_byte) {
            self.first_token.record(time.as_secs_f64(), &attributes);
        }
        if let Some(wait) = outcome.queued {
            self.queue_wait.record(wait.as_secs_f64(), &attributes);
        }
        if let Some(usage) = &outcome.usage {
            self.record_usage(usage, &attributes);
        }
        attributes.extend(error_attribute(outcome));
        self.gen_ai_duration.record(seconds(outcome), &attributes);
    }

    fn record_usage(&self, usage: &Usage, attributes: &Attributes) {
        let of_type = |token_type: &'static str| {
            let mut attributes = attributes.clone();
            attributes.push(KeyValue::new(names::GEN_AI_TOKEN_TYPE, token_type));
            attributes
        };
        for (token_type, count) in [
            ("input", usage.prompt_tokens),
            ("output", usage.output_tokens),
        ] {
            if count > 0 {
                self.tokens.record(count, &of_type(token_type));
            }
        }
        if let (Some(timings), 1..) = (usage.timings, usage.output_tokens) {
            let one = timings.output.as_secs_f64() / usage.output_tokens as f64;
            self.output_token.record(one, attributes);
        }
    }

    fn count(&self, outcome: &Outcome) {
        if outcome.ending == Ending::Cancelled {
            self.cancelled.add(1, route(outcome).as_slice());
        }
        if outcome.attempts > 0 {
            return;
        }
        if let Some(kind) = outcome.error {
            let kind = [KeyValue::new(names::ERROR_TYPE, kind)];
            self.refusals.add(1, &kind);
            if outcome.status == Some(StatusCode::TOO_MANY_REQUESTS) {
                self.rate_limited.add(1, &kind);
            }
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn seconds(outcome: &Outcome) -> f64 {
    outcome.duration.unwrap_or_default().as_secs_f64()
}

/// `error.type` of a request, by the rules of the HTTP convention for servers: what a client did
/// wrong (4xx, a cancel) is no error of the server.
pub(super) fn error_type(outcome: &Outcome) -> Option<StringValue> {
    let failed = outcome.status.filter(StatusCode::is_server_error);
    if failed.is_none() && outcome.ending != Ending::Broken {
        return None;
    }
    Some(match (outcome.error, failed) {
        (Some(kind), _) => kind.into(),
        (None, Some(status)) => status.as_str().to_owned().into(),
        (None, None) => names::ERROR_TYPE_OTHER.into(),
    })
}

fn error_attribute(outcome: &Outcome) -> Option<KeyValue> {
    error_type(outcome).map(|kind| KeyValue::new(names::ERROR_TYPE, kind))
}

fn route(outcome: &Outcome) -> Option<KeyValue> {
    let route = outcome.route()?;
    Some(KeyValue::new(names::HTTP_ROUTE, route.clone()))
}

fn active_attributes(outcome: &Outcome) -> [KeyValue; 2] {
    [
        KeyValue::new(names::HTTP_REQUEST_METHOD, method_name(&outcome.method)),
        KeyValue::new(names::URL_SCHEME, "http"),
    ]
}

fn observe_backends(meter: &Meter, backends: &Backends) {
    let observe = |value: fn(&BackendRow) -> Option<u64>| {
        let backends = backends.clone();
        move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            let rows = backends.read().unwrap_or_else(PoisonError::into_inner);
            for row in rows.iter().flat_map(|rows| rows()) {
                let name = KeyValue::new(names::BACKEND, row.name.clone());
                if let Some(value) = value(&row) {
                    observer.observe(value, &[name]);
                }
            }
        }
    };
    meter
        .u64_observable_gauge(names::BACKEND_UP)
        .with_description("1 if the backend is in service, else 0")
        .with_callback(observe(|row| Some(u64::from(row.is_up))))
        .build();
    meter
        .u64_observable_gauge(names::BACKEND_IN_FLIGHT)
        .with_unit("{request}")
        .with_description("Requests that the backend is busy with")
        .with_callback(observe(|row| Some(row.in_flight)))
        .build();
    meter
        .u64_observable_gauge(names::BACKEND_SLOTS)
        .with_unit("{request}")
        .with_description("Requests that the backend is sent at a time for one model")
        .with_callback(observe(|row| row.slots))
        .build();
    meter
        .u64_observable_gauge(names::BREAKER_STATE)
        .with_description("How the backend's breaker stands: 0 closed, 1 half-open, 2 open")
        .with_callback(observe(|row| {
            Some(match row.breaker {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open => 2,
            })
        }))
        .build();
}

fn observe_queue(meter: &Meter, queue: &Queue, models: &Arc<ModelNames>) {
    let (queue, models) = (queue.clone(), models.clone());
    meter
        .u64_observable_gauge(names::QUEUE_DEPTH)
        .with_unit("{request}")
        .with_description("Requests that wait in the gateway for a slot, by model")
        .with_callback(move |observer| {
            let rows = queue.read().unwrap_or_else(PoisonError::into_inner);
            // Clients choose the names: what nobody has is one row.
            let mut waiting: HashMap<StringValue, u64> = HashMap::new();
            for row in rows.iter().flat_map(|rows| rows()) {
                *waiting.entry(models.label(&row.model, false)).or_default() += row.waiting;
            }
            for (model, waiting) in waiting {
                let model = KeyValue::new(names::GEN_AI_REQUEST_MODEL, model);
                observer.observe(waiting, &[model]);
            }
        })
        .build();
}

fn observe_build(meter: &Meter, version: &'static str) {
    meter
        .u64_observable_gauge(names::BUILD_INFO)
        .with_description("What is running")
        .with_callback(move |observer| {
            observer.observe(1, &[KeyValue::new(names::VERSION, version)]);
        })
        .build();
}

pub(super) fn observe_log(meter: &Meter, dropped: impl Fn() -> u64 + Send + Sync + 'static) {
    meter
        .u64_observable_counter(names::LOG_LINES_DROPPED)
        .with_description("Lines of the log given up because its reader stood still")
        .with_callback(move |observer| observer.observe(dropped(), &[]))
        .build();
}
