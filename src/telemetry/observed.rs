//! What is asked for at each export instead of being recorded: backends, the queue.

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

/// The edge, once there is one.
pub(super) type Clients = Arc<OnceLock<Arc<Gauges>>>;

/// A gauge that is asked at each export.
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
        (
            names::BACKEND_UP,
            "",
            "1 if the backend is in service, else 0",
        ),
        |row| Some(u64::from(row.is_up)),
    );
    each(
        (
            names::BACKEND_IN_FLIGHT,
            "{request}",
            "Requests that the backend is busy with",
        ),
        |row| Some(row.in_flight as u64),
    );
    each(
        (
            names::BACKEND_SLOTS,
            "{request}",
            "Requests that the backend is sent at a time for one model",
        ),
        |row| row.slots.map(|slots| slots.get() as u64),
    );
    each(
        (
            names::BREAKER_STATE,
            "",
            "How the backend's breaker stands: 0 closed, 1 half-open, 2 open",
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
        "Connections of clients that are open",
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
        "Connections that were turned away because there were too many",
        Gauges::refused_connections,
    );
    count(
        names::HEADS_REFUSED,
        "Requests refused before they were read: too large, too late, or no HTTP/1",
        Gauges::refused_heads,
    );
    count(
        names::ACCEPT_ERRORS,
        "Times the system had no socket for a connection that was waiting",
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
        // Clients choose the names: the models that no backend has are one row.
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
    let description = (names::BUILD_INFO, "", "What is running");
    gauge(meter, description, move |gauge| {
        gauge.observe(1, std::slice::from_ref(&version));
    });
}

pub(super) fn observe_log(meter: &Meter, dropped: impl Fn() -> u64 + Send + Sync + 'static) {
    meter
        .u64_observable_counter(names::LOG_LINES_DROPPED)
        .with_description("Lines of the log given up because its reader stood still")
        .with_callback(move |observer| observer.observe(dropped(), &[]))
        .build();
}
