//! Traces, metrics and logs.
//!
//! - **Log**: one line for each request at its end ([`names::ACCESS_LOG`]), human-readable or JSON.
//! - **Metrics**: one set of OpenTelemetry instruments, for the Prometheus page
//!   ([`Telemetry::metrics_page`]) and for OTLP.
//! - **Traces**: a SERVER span for each request ([`RequestSpans`]), a GenAI span for each one that runs
//!   a model ([`InferenceSpans`]), and a CLIENT span for each attempt upstream ([`AttemptSpans`]), all
//!   held to the end of the stream.
//!
//! OTLP is set up only if the standard variables name an endpoint. Without one, and while it does not
//! answer, no span is created. Nothing is recorded per chunk.
//!
//! ```text
//! request id -> endpoint -> OutcomeLayer -> RequestSpans -> .. -> InferenceSpans -> .. -> AttemptSpans
//!                           |  started, finished                             (one for each backend)
//!                           +-> RequestObserver: metrics, span's end, log line
//! ```
//!
//! The span of a request is kept in the [`Outcome`], so it ends together with the record.

mod access_log;
mod attributes;
mod collector;
mod config;
mod environment;
mod export;
mod filter;
mod fleet_view;
mod gen_ai;
mod keys;
mod lazily;
mod log;
mod log_output;
mod metrics;
mod model_names;
pub mod names;
mod observed;
mod overhead;
mod process;
mod propagation;
mod redis_calls;
mod runtime;
mod series;
mod sources;
mod spans;
mod tracer;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use llamatower_layers::{Observer, Outcome};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower::Layer;
use tracing::Dispatch;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::fmt::MakeWriter;

use environment::OtelSettings;
use log_output::LogHealth;

use crate::edge::{RefusalObserver, Refused};

pub(crate) use attributes::{Provider, bounded};
pub use config::{LogFormat, Semconv, TelemetryConfig, TelemetryError};
pub use filter::{check_log_filter, suppresses_warnings};
pub use fleet_view::FleetView;
pub use log::LogFilter;
pub use metrics::Metrics;
pub(crate) use model_names::MAX_MODELS;
pub use observed::PoolOf;
pub use sources::{BudgetUse, SharedUse};

use propagation::Propagation;
pub(crate) use spans::trace_id;
pub use spans::{
    AttemptBody, AttemptFuture, AttemptSpans, InferenceSpans, RequestSpans, Upstream, attempt_spans,
};
pub use tracer::Tracer;

/// Checks OpenTelemetry's variables and returns errors and warnings, without setting anything up.
pub fn check_environment(
    look_up: &dyn Fn(&str) -> Option<String>,
) -> (Vec<TelemetryError>, Vec<String>) {
    let (settings, errors) = OtelSettings::read_all(look_up);
    (errors, settings.warnings)
}

/// The telemetry of the process. Call [`shutdown`](Self::shutdown) after the drain.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Arc<Metrics>,
    registry: prometheus::Registry,
    meter_provider: SdkMeterProvider,
    tracer_provider: Option<SdkTracerProvider>,
    tracer: Tracer,
    log_filter: LogFilter,
    log_guard: Option<WorkerGuard>,
    log_health: LogHealth,
}

impl Telemetry {
    /// Sets up telemetry for the process, with the environment variables from `look_up`.
    ///
    /// A separate thread writes the log. If the log's reader does not read, or the log cannot be
    /// written, lines are dropped and counted, and no request is delayed.
    ///
    /// # Errors
    /// See [`TelemetryError`]. An unreachable collector is not an error.
    pub fn start(
        config: &TelemetryConfig,
        look_up: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, TelemetryError> {
        let (writer, guard, health) = log::writer();
        let dropped = writer.error_counter();
        let (mut telemetry, dispatch) = Self::prepare(config, look_up, writer)?;
        telemetry.log_guard = Some(guard);
        telemetry.log_health = health.clone();
        let metrics = &telemetry.metrics;
        metrics.observe_log(move || dropped.dropped_lines() as u64 + health.lost());
        tracing::dispatcher::set_global_default(dispatch)
            .map_err(|_| TelemetryError::AlreadyStarted)?;
        Ok(telemetry)
    }

    /// The same without global effects: the log goes to `writer`, and the caller installs the
    /// returned [`Dispatch`].
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn prepare<W>(
        config: &TelemetryConfig,
        look_up: &dyn Fn(&str) -> Option<String>,
        writer: W,
    ) -> Result<(Self, Dispatch), TelemetryError>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let settings = OtelSettings::read(look_up)?;
        let filter = log::filter(&config.log_filter)?;
        let resource = export::resource(&settings);
        let registry = prometheus::Registry::new();
        let meter_provider = export::meter_provider(&settings, &resource, &registry)?;
        let propagation = Propagation {
            is_on: settings.propagates_trace_context,
            trusts_inbound: config.trusts_inbound_trace,
        };
        let traces = export::traces(&settings, &resource)?;
        let meter = meter_provider.meter(names::SCOPE);
        let (tracer_provider, tracer) = match traces {
            None => (None, Tracer::off(propagation)),
            Some((provider, collector)) => {
                observed::observe_collector(&meter, &collector);
                let tracer = Tracer::new(provider.tracer(names::SCOPE), collector, propagation);
                (Some(provider), tracer)
            }
        };

        let (dispatch, log_filter) = log::dispatch(config, filter, writer);
        tracing::dispatcher::with_default(&dispatch, || {
            for warning in &settings.warnings {
                tracing::warn!("{warning}");
            }
        });
        let telemetry = Self {
            metrics: Arc::new(Metrics::new(&meter, config.semconv)),
            registry,
            meter_provider,
            tracer_provider,
            tracer,
            log_filter,
            log_guard: None,
            log_health: LogHealth::default(),
        };
        Ok((telemetry, dispatch))
    }

    /// The instruments, for values that are not in a request's outcome.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The filter of the log, to be replaced.
    pub fn log_filter(&self) -> LogFilter {
        self.log_filter.clone()
    }

    /// Why the last line of the log could not be written; `None` if it could.
    pub fn log_problem(&self) -> Option<String> {
        self.log_health.problem()
    }

    /// The observer for an [`OutcomeLayer`](llamatower_layers::OutcomeLayer).
    pub fn observer(&self) -> Arc<RequestObserver> {
        Arc::new(RequestObserver {
            metrics: self.metrics.clone(),
        })
    }

    /// The layer of the SERVER span; it must be directly inside the `OutcomeLayer`.
    pub fn request_span_layer<S>(
        &self,
    ) -> impl Layer<S, Service = RequestSpans<S>> + Clone + use<S> {
        spans::request_spans(self.tracer.clone())
    }

    /// The layer of the GenAI span; it must be inside the `LlmRequestLayer`.
    pub fn inference_span_layer<S>(
        &self,
    ) -> impl Layer<S, Service = InferenceSpans<S>> + Clone + use<S> {
        spans::inference_spans(self.tracer.clone())
    }

    /// What the services of backends need.
    pub fn of_attempts(&self) -> AttemptTelemetry {
        AttemptTelemetry {
            tracer: self.tracer.clone(),
            metrics: Arc::downgrade(&self.metrics),
        }
    }

    /// Begins the CLIENT spans of attempts.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// The content type of [`metrics_page`](Self::metrics_page).
    pub const METRICS_CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    /// All metrics in Prometheus' text format.
    pub fn metrics_page(&self) -> String {
        let families = self.registry.gather();
        prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_else(|error| {
                tracing::error!(%error, "the metrics cannot be encoded as text");
                String::new()
            })
    }

    /// Sends and writes all pending data, for at most `limit`. Lines that are logged afterwards may
    /// be lost.
    pub async fn shutdown(self, limit: Duration) {
        let (done, is_done) = tokio::sync::oneshot::channel::<()>();
        // A separate thread rather than one of the runtime: the exporters block, and a runtime
        // waits at its end for its blocking threads.
        let thread = std::thread::Builder::new().name("telemetry-shutdown".to_owned());
        // If the thread cannot be started, `done` is dropped too.
        let _ = thread.spawn(move || {
            self.flush(Instant::now() + limit);
            drop(done);
        });
        let _ = tokio::time::timeout(limit, is_done).await;
    }

    fn flush(self, deadline: Instant) {
        let left = || deadline.saturating_duration_since(Instant::now());
        if let Some(traces) = &self.tracer_provider
            && let Err(error) = traces.shutdown_with_timeout(left())
        {
            tracing::warn!(%error, "cannot send the last spans");
        }
        if let Err(error) = self.meter_provider.shutdown_with_timeout(left()) {
            tracing::warn!(%error, "cannot send the last metrics");
        }
        drop(self.log_guard);
    }
}

/// The telemetry of the attempts at one backend. Its reference to the metrics is weak, because they
/// have one to the fleet, which owns the services of backends.
#[derive(Clone, Debug)]
pub struct AttemptTelemetry {
    /// Begins their spans.
    pub tracer: Tracer,
    metrics: Weak<Metrics>,
}

impl AttemptTelemetry {
    /// See [`Metrics::observe_pool`].
    pub fn observe_pool(&self, backend: Arc<str>, status: PoolOf) {
        if let Some(metrics) = self.metrics.upgrade() {
            metrics.observe_pool(backend, status);
        }
    }
}

/// Records each request in metrics, span and log, including requests that only the edge has seen.
/// Created by [`Telemetry::observer`].
#[derive(Debug)]
pub struct RequestObserver {
    metrics: Arc<Metrics>,
}

impl Observer for RequestObserver {
    fn started(&self, outcome: &Outcome) {
        self.metrics.started(outcome);
    }

    fn finished(&self, outcome: &Outcome) {
        self.metrics.finished(outcome);
        spans::finish(outcome);
        access_log::write(outcome);
    }
}

impl RefusalObserver for RequestObserver {
    fn refused(&self, refused: &Refused<'_>) {
        self.metrics.refused(refused.reason);
        access_log::write_refused(refused);
    }
}
