//! What is asked for at each export instead of being recorded: backends, the queue, requests under way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use http::Method;
use llamatower_layers::breaker::State;
use opentelemetry::metrics::Meter;
use opentelemetry::{KeyValue, StringValue};

use super::metrics::{BackendRow, Backends, Queue};
use super::model_names::ModelNames;
use super::{METHODS, method_index, names};

/// The requests under way, by their method.
#[derive(Debug, Default)]
pub(super) struct Active([OfMethod; METHODS.len()]);

#[derive(Debug, Default)]
struct OfMethod {
    started: AtomicU64,
    ended: AtomicU64,
}

impl Active {
    pub(super) fn started(&self, method: &Method) {
        let counts = &self.0[method_index(method)];
        counts.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, method: &Method) {
        let counts = &self.0[method_index(method)];
        counts.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl OfMethod {
    /// `None` if the method was never used.
    fn under_way(&self) -> Option<i64> {
        let ended = self.ended.load(Ordering::Relaxed);
        let started = self.started.load(Ordering::Relaxed);
        (started > 0).then(|| i64::try_from(started.saturating_sub(ended)).unwrap_or(i64::MAX))
    }
}

pub(super) fn observe_active(meter: &Meter, active: &Arc<Active>) {
    let active = active.clone();
    meter
        .i64_observable_up_down_counter(names::HTTP_SERVER_ACTIVE_REQUESTS)
        .with_unit("{request}")
        .with_description("Requests under way, streams included")
        .with_callback(move |observer| {
            for (method, counts) in METHODS.into_iter().zip(&active.0) {
                let Some(under_way) = counts.under_way() else {
                    continue;
                };
                let attributes = [
                    KeyValue::new(names::HTTP_REQUEST_METHOD, method),
                    KeyValue::new(names::URL_SCHEME, "http"),
                ];
                observer.observe(under_way, &attributes);
            }
        })
        .build();
}

pub(super) fn observe_backends(meter: &Meter, backends: &Backends) {
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

pub(super) fn observe_queue(meter: &Meter, queue: &Queue, models: &Arc<ModelNames>) {
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

pub(super) fn observe_build(meter: &Meter, version: &'static str) {
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
