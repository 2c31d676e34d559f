//! Values that are queried at each export instead of being recorded: backends, the queue.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use llamatower_layers::breaker::State;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::{KeyValue, StringValue};

use super::collector::Collector;
use super::fleet_view::View;
use super::model_names::{MAX_MODELS, ModelNames};
use super::names;
use crate::edge::Gauges;
use crate::ollama::fleet::BackendStatus;
use crate::ollama::upstream::PoolStatus;

/// The edges by what they serve.
pub(super) type Listeners = Arc<Mutex<Vec<(&'static str, Arc<Gauges>)>>>;

/// The connection pools by backend. A function returns `None` once its backend was removed.
pub(super) type Pools = Arc<Mutex<Vec<(Arc<str>, PoolOf)>>>;

/// The state of a backend's connections; `None` once the backend was removed.
pub type PoolOf = Box<dyn Fn() -> Option<PoolStatus> + Send + Sync>;

/// The number of dropped log lines, once there is a log.
pub(super) type DroppedLines = Arc<OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>>;

/// A gauge that is queried at each export.
pub(super) fn gauge(
    meter: &Meter,
    (name, unit, text): (&'static str, &'static str, &'static str),
    ask: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    let gauge = meter.u64_observable_gauge(name).with_unit(unit);
    gauge.with_description(text).with_callback(ask).build();
}

/// A counter that is queried at each export.
pub(super) fn counter(
    meter: &Meter,
    (name, unit, text): (&'static str, &'static str, &'static str),
    ask: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    let counter = meter.u64_observable_counter(name).with_unit(unit);
    counter.with_description(text).with_callback(ask).build();
}

pub(super) fn observe_backends(meter: &Meter, fleet: &View, models: &Arc<ModelNames>) {
    observe_slots(meter, fleet, models);
    let each = |description, value: fn(&BackendStatus) -> u64| {
        let fleet = fleet.clone();
        gauge(meter, description, move |gauge| {
            for row in fleet.get().iter().flat_map(|fleet| fleet.status()) {
                let name = KeyValue::new(names::BACKEND, row.name.clone());
                gauge.observe(value(&row), &[name]);
            }
        });
    };
    each(
        (names::BACKEND_UP, "", "1 if the backend is up, else 0"),
        |row| u64::from(row.is_up),
    );
    each(
        (
            names::BACKEND_IN_FLIGHT,
            "{request}",
            "Requests in flight at the backend",
        ),
        |row| row.in_flight as u64,
    );
    each(
        (
            names::BACKEND_AVOIDED_MODELS,
            "{model}",
            "Models for which the backend is avoided while another has them",
        ),
        |row| row.avoided.len() as u64,
    );
    each(
        (
            names::BREAKER_STATE,
            "",
            "State of the backend's circuit breaker: 0 closed, 1 half-open, 2 open",
        ),
        |row| match row.breaker {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        },
    );
}

/// The limits: one row for a backend whose slots are configured, else one for each of its models
/// that is in memory or has requests. Those are few, so the rows are bounded by the backends'
/// memories.
fn observe_slots(meter: &Meter, fleet: &View, models: &Arc<ModelNames>) {
    let (fleet, models) = (fleet.clone(), models.clone());
    let description = (
        names::BACKEND_SLOTS,
        "{request}",
        "Limit of concurrent requests for one model at the backend, as configured or learned",
    );
    gauge(meter, description, move |gauge| {
        for row in fleet.get().iter().flat_map(|fleet| fleet.status()) {
            let backend = KeyValue::new(names::BACKEND, row.name.clone());
            if let Some(slots) = row.slots {
                gauge.observe(slots.get() as u64, &[backend]);
                continue;
            }
            // Models beyond the limit of labels share a row.
            let mut limits: HashMap<StringValue, u32> = HashMap::new();
            for of in &row.models {
                if let Some(limit) = of.slots.limit {
                    let model = models.label(&of.model.to_string(), true);
                    let known = limits.entry(model).or_default();
                    *known = limit.max(*known);
                }
            }
            for (model, limit) in limits {
                let model = KeyValue::new(names::GEN_AI_REQUEST_MODEL, model);
                gauge.observe(u64::from(limit), &[backend.clone(), model]);
            }
        }
    });
}

pub(super) fn observe_listeners(meter: &Meter, listeners: &Listeners) {
    let each = |listeners: &Listeners| {
        let listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.clone()
    };
    let open = listeners.clone();
    let description = (
        names::CONNECTIONS,
        "{connection}",
        "Open client connections",
    );
    gauge(meter, description, move |gauge| {
        for (listener, edge) in each(&open) {
            let listener = KeyValue::new(names::LISTENER, listener);
            gauge.observe(edge.connections() as u64, &[listener]);
        }
    });
    let count = |name, unit, text, count: fn(&Gauges) -> u64| {
        let listeners = listeners.clone();
        counter(meter, (name, unit, text), move |counter| {
            for (listener, edge) in each(&listeners) {
                let listener = KeyValue::new(names::LISTENER, listener);
                counter.observe(count(&edge), &[listener]);
            }
        });
    };
    count(
        names::CONNECTIONS_REFUSED,
        "{connection}",
        "Connections refused because too many were open",
        Gauges::refused_connections,
    );
    count(
        names::HEADS_REFUSED,
        "{request}",
        "Requests refused before their head was parsed: too large, too late, or not HTTP/1",
        Gauges::refused_heads,
    );
    count(
        names::HTTP2_CONNECTIONS_CLOSED,
        "{connection}",
        "HTTP/2 connections closed because the client had cancelled too many requests",
        Gauges::connections_of_cancels,
    );
    count(
        names::TLS_HANDSHAKES_FAILED,
        "{handshake}",
        "TLS handshakes that failed or were not completed in time",
        Gauges::failed_handshakes,
    );
    count(
        names::ACCEPT_ERRORS,
        "{error}",
        "Failed calls of accept, for example without a free file descriptor",
        Gauges::accept_errors,
    );
}

pub(super) fn observe_pools(meter: &Meter, pools: &Pools) {
    // Backends that were removed are forgotten here.
    let statuses = |pools: &Pools| -> Vec<(Arc<str>, PoolStatus)> {
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statuses = Vec::with_capacity(pools.len());
        pools.retain(|(backend, status)| {
            let status = status();
            statuses.extend(status.map(|status| (backend.clone(), status)));
            status.is_some()
        });
        statuses
    };
    let idle = pools.clone();
    let description = (
        names::BACKEND_IDLE_CONNECTIONS,
        "{connection}",
        "Idle connections to the backend",
    );
    gauge(meter, description, move |gauge| {
        for (backend, status) in statuses(&idle) {
            let backend = KeyValue::new(names::BACKEND, backend);
            gauge.observe(status.idle as u64, &[backend]);
        }
    });
    let closed = pools.clone();
    let description = (
        names::BACKEND_CLOSED_CONNECTIONS,
        "{connection}",
        "Idle connections that the backend has closed",
    );
    counter(meter, description, move |counter| {
        for (backend, status) in statuses(&closed) {
            let backend = KeyValue::new(names::BACKEND, backend);
            counter.observe(status.closed_by_backend, &[backend]);
        }
    });
}

pub(super) fn observe_queue(meter: &Meter, fleet: &View, models: &Arc<ModelNames>) {
    let (fleet_, models_) = (fleet.clone(), models.clone());
    let description = (
        names::QUEUE_DEPTH,
        "{request}",
        "Requests that wait in the gateway for a slot, by model",
    );
    gauge(meter, description, move |gauge| {
        for (model, waiting) in waiting(&fleet_, &models_) {
            let model = KeyValue::new(names::GEN_AI_REQUEST_MODEL, model);
            gauge.observe(waiting.requests, &[model]);
        }
    });
    let (fleet, models) = (fleet.clone(), models.clone());
    meter
        .f64_observable_gauge(names::QUEUE_OLDEST)
        .with_unit("s")
        .with_description("How long the request that waits longest has waited, by model")
        .with_callback(move |gauge| {
            for (model, waiting) in waiting(&fleet, &models) {
                let model = KeyValue::new(names::GEN_AI_REQUEST_MODEL, model);
                gauge.observe(waiting.oldest.as_secs_f64(), &[model]);
            }
        })
        .build();
}

/// The requests that wait for one model.
#[derive(Clone, Copy, Default)]
struct Waiting {
    requests: u64,
    oldest: Duration,
}

/// The requests that wait, by model. There is a row for each installed model, and one for all others,
/// so that the queue can be seen to be empty. If more models are installed than may be labels, only
/// those with waiting requests have a row: the labels are for models that are used.
fn waiting(fleet: &View, models: &ModelNames) -> HashMap<StringValue, Waiting> {
    let mut rows: HashMap<StringValue, Waiting> = HashMap::new();
    // Clients choose the names, so all models that no backend has share one row.
    rows.insert(names::OTHER.into(), Waiting::default());
    let Some(fleet) = fleet.get() else {
        return rows;
    };
    let backends = fleet.status();
    let installed = backends.iter().flat_map(|row| &*row.models_on_disk);
    let installed: HashSet<_> = installed.map(|model| &model.name).collect();
    if installed.len() <= MAX_MODELS {
        let labels = installed
            .iter()
            .map(|name| models.label(&name.to_string(), false));
        rows.extend(labels.map(|model| (model, Waiting::default())));
    }
    for row in fleet.queue_status() {
        let waiting = rows.entry(models.label(&row.model, false)).or_default();
        waiting.requests += row.waiting as u64;
        waiting.oldest = waiting.oldest.max(row.oldest.unwrap_or_default());
    }
    rows
}

pub(super) fn observe_build(meter: &Meter) {
    let version = KeyValue::new(names::VERSION, env!("CARGO_PKG_VERSION"));
    let description = (names::BUILD_INFO, "", "The running version");
    gauge(meter, description, move |gauge| {
        gauge.observe(1, std::slice::from_ref(&version));
    });
}

pub(super) fn observe_log(meter: &Meter, dropped: &DroppedLines) {
    let dropped = dropped.clone();
    let description = (
        names::LOG_LINES_DROPPED,
        "{line}",
        "Log lines dropped because the reader of the log did not read, or the log could not be written",
    );
    counter(meter, description, move |counter| {
        if let Some(dropped) = dropped.get() {
            counter.observe(dropped(), &[]);
        }
    });
}

pub(super) fn observe_collector(meter: &Meter, collector: &Arc<Collector>) {
    let collector = collector.clone();
    let description = (
        names::REQUESTS_WITHOUT_TRACE,
        "{request}",
        "Requests that began while the OTLP endpoint did not take traces, sampled or not",
    );
    counter(meter, description, move |counter| {
        counter.observe(collector.requests_left_out(), &[]);
    });
}
