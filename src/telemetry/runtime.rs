//! Figures of the async runtime, read at each export.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::metrics::Meter;
use tokio::runtime::RuntimeMetrics;

use super::names;
use super::observed::gauge;

/// The runtime, once it is set.
pub(super) type Runtime = Arc<OnceLock<RuntimeMetrics>>;

pub(super) fn observe(meter: &Meter, runtime: &Runtime) {
    let each = |description, value: fn(&RuntimeMetrics) -> usize| {
        let runtime = runtime.clone();
        gauge(meter, description, move |gauge| {
            if let Some(runtime) = runtime.get() {
                gauge.observe(value(runtime) as u64, &[]);
            }
        });
    };
    each(
        (
            names::TOKIO_WORKERS,
            "{thread}",
            "Threads that serve requests",
        ),
        RuntimeMetrics::num_workers,
    );
    each(
        (
            names::TOKIO_ALIVE_TASKS,
            "{task}",
            "Tasks that have not ended",
        ),
        RuntimeMetrics::num_alive_tasks,
    );
    each(
        (
            names::TOKIO_GLOBAL_QUEUE_DEPTH,
            "{task}",
            "Tasks that wait for any of the workers",
        ),
        RuntimeMetrics::global_queue_depth,
    );
    let runtime = runtime.clone();
    meter
        .f64_observable_counter(names::TOKIO_WORKER_BUSY)
        .with_unit("s")
        .with_description("How long the workers were busy, together")
        .with_callback(move |counter| {
            if let Some(runtime) = runtime.get() {
                counter.observe(busy(runtime).as_secs_f64(), &[]);
            }
        })
        .build();
}

fn busy(runtime: &RuntimeMetrics) -> Duration {
    let workers = 0..runtime.num_workers();
    let busy = workers.map(|worker| runtime.worker_total_busy_duration(worker));
    busy.sum()
}
