//! Values that are queried at each export instead of being recorded: backends, the queue.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use llamatower_layers::breaker::State;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::{KeyValue, StringValue};

use super::fleet_view::View;
use super::model_names::ModelNames;
use super::names;
use crate::edge::Gauges;
use crate::ollama::fleet::BackendStatus;

/// The edge's gauges, once they are set.
pub(super) type Clients = Arc<OnceLock<Arc<Gauges>>>;

/// A gauge that is queried at each export.
pub(super) fn gauge(
    meter: &Meter,
    (name, unit, text): (&'static str, &'static str, &'static str),
    ask: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    let gauge = meter.u64_observable_gauge(name).with_unit(unit);
    gauge.with_description(text).with_callback(ask).build();
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

pub(super) fn observe_clients(meter: &Meter, clients: &Clients) {
    let edge = clients.clone();
    let description = (
        names::CONNECTIONS,
        "{connection}",
        "Open client connections",
    );
    gauge(meter, description, move |gauge| {
        if let Some(edge) = edge.get() {
            gauge.observe(edge.connections() as u64, &[]);
        }
    });
    let count = |name, text, count: fn(&Gauges) -> u64| {
        let edge = clients.clone();
        let counter = meter.u64_observable_counter(name).with_description(text);
        let ask = move |counter: &dyn AsyncInstrument<u64>| {
            if let Some(edge) = edge.get() {
                counter.observe(count(edge), &[]);
            }
        };
        counter.with_callback(ask).build();
    };
    count(
        names::CONNECTIONS_REFUSED,
        "Connections refused because too many were open",
        Gauges::refused_connections,
    );
    count(
        names::HEADS_REFUSED,
        "Requests refused before their head was parsed: too large, too late, or not HTTP/1",
        Gauges::refused_heads,
    );
    count(
        names::ACCEPT_ERRORS,
        "Failed calls of accept, for example without a free file descriptor",
        Gauges::accept_errors,
    );
}

pub(super) fn observe_queue(meter: &Meter, fleet: &View, models: &Arc<ModelNames>) {
    let (fleet, models) = (fleet.clone(), models.clone());
    let description = (
        names::QUEUE_DEPTH,
        "{request}",
        "Requests that wait in the gateway for a slot, by model",
    );
    gauge(meter, description, move |gauge| {
        // Clients choose the names, so all models that no backend has share one row.
        let mut waiting: HashMap<StringValue, u64> = HashMap::new();
        for row in fleet.get().iter().flat_map(|fleet| fleet.queue_status()) {
            *waiting.entry(models.label(&row.model, false)).or_default() += row.waiting as u64;
        }
        for (model, waiting) in waiting {
            let model = KeyValue::new(names::GEN_AI_REQUEST_MODEL, model);
            gauge.observe(waiting, &[model]);
        }
    });
}

pub(super) fn observe_build(meter: &Meter) {
    let version = KeyValue::new(names::VERSION, env!("CARGO_PKG_VERSION"));
    let description = (names::BUILD_INFO, "", "The running version");
    gauge(meter, description, move |gauge| {
        gauge.observe(1, std::slice::from_ref(&version));
    });
}

pub(super) fn observe_log(meter: &Meter, dropped: impl Fn() -> u64 + Send + Sync + 'static) {
    meter
        .u64_observable_counter(names::LOG_LINES_DROPPED)
        .with_description("Log lines dropped because the reader of the log did not read")
        .with_callback(move |observer| observer.observe(dropped(), &[]))
        .build();
}
