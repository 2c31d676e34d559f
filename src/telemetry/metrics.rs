//! The instruments, and what is recorded in them.
//!
//! One set of instruments feeds the Prometheus page and OTLP. A record is made when a request
//! starts and when it ends, never for a chunk. Requests that are alike share a series whose
//! attributes were hashed once.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::StatusCode;
use llamatower_layers::breaker::State;
use llamatower_layers::{Ending, Outcome};
use opentelemetry::metrics::{Counter, Meter};
use opentelemetry::{KeyValue, StringValue};

use super::model_names::ModelNames;
use super::observed::{Active, observe_active, observe_backends, observe_build, observe_queue};
use super::series::SeriesCache;
use super::{names, process};

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

pub(super) type Backends = Arc<RwLock<Option<Box<dyn Fn() -> Vec<BackendRow> + Send + Sync>>>>;
pub(super) type Queue = Arc<RwLock<Option<Box<dyn Fn() -> Vec<QueueRow> + Send + Sync>>>>;

/// The instruments.
pub struct Metrics {
    active: Arc<Active>,
    series: SeriesCache,
    retries: Counter<u64>,
    refusals: Counter<u64>,
    rate_limited: Counter<u64>,
    cancelled: Counter<u64>,
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
        let active = Arc::<Active>::default();
        observe_active(meter, &active);
        observe_build(meter, version);
        process::observe(meter);
        let count = |name: &'static str, text: &'static str| {
            let counter = meter.u64_counter(name).with_unit("{request}");
            counter.with_description(text).build()
        };
        Self {
            active,
            series: SeriesCache::new(meter, models.clone()),
            retries: count(names::RETRIES, "Attempts that were repeated"),
            refusals: count(names::REFUSALS, "Requests that the gateway refused itself"),
            rate_limited: count(names::RATE_LIMITED, "Requests refused with 429"),
            cancelled: count(
                names::CANCELLED,
                "Requests whose client went away before the end",
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
        self.active.started(&outcome.method);
    }

    pub(super) fn finished(&self, outcome: &Outcome) {
        self.active.ended(&outcome.method);
        self.series.record(outcome);
        self.count(outcome);
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

pub(super) fn error_attribute(outcome: &Outcome) -> Option<KeyValue> {
    error_type(outcome).map(|kind| KeyValue::new(names::ERROR_TYPE, kind))
}

pub(super) fn route(outcome: &Outcome) -> Option<KeyValue> {
    let route = outcome.route()?;
    Some(KeyValue::new(names::HTTP_ROUTE, route.clone()))
}
