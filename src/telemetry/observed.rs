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

pub(super) fn observe_backends(meter: &Meter, fleet: &View) {
    let each = |description, value: fn(&BackendStatus) -> Option<u64>| {
        let fleet = fleet.clone();
        gauge(meter, description, move |gauge| {
            for row in fleet.get().iter().flat_map(|fleet| fleet.status()) {
                let name = KeyValue::new(names::BACKEND, row.name.clone());
                if let Some(value) = value(&row) {
                    gauge.observe(value, &[name]);
                }
            }
        });
    };
    each(
        (names::BACKEND_UP, "", "1 if the backend is up, else 0"),
        |row| Some(u64::from(row.is_up)),
    );
    each(
        (
            names::BACKEND_IN_FLIGHT,
            "{request}",
            "Requests in flight at the backend",
        ),
        |row| Some(row.in_flight as u64),
    );
    each(
        (
            names::BACKEND_SLOTS,
            "{request}",
            "Limit of concurrent requests for one model at the backend",
        ),
        |row| row.slots.map(|slots| slots.get() as u64),
    );
    each(
        (
            names::BREAKER_STATE,
            "",
            "State of the backend's circuit breaker: 0 closed, 1 half-open, 2 open",
        ),
        |row| {
            Some(match row.breaker {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open => 2,
            })
        },
    );
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
