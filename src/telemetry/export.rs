//! The OpenTelemetry providers and exporters.
//!
//! The exporters use the blocking HTTP client, because they run on the SDK's own threads, outside
//! of any runtime, where an asynchronous client would fail silently.

use std::sync::Arc;

use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use super::collector::{Collector, WatchedExporter};
use super::config::TelemetryError;
use super::environment::OtelSettings;
use super::names;

const SERVICE: &str = "llamatower";

/// The resource of all signals. `OTEL_RESOURCE_ATTRIBUTES` may set the service name.
pub(super) fn resource(settings: &OtelSettings) -> Resource {
    let version = opentelemetry::KeyValue::new(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION"));
    let builder = || Resource::builder().with_attribute(version.clone());
    if let Some(name) = &settings.service_name {
        return builder().with_service_name(name.clone()).build();
    }
    let resource = builder().build();
    let name = resource.get(&"service.name".into());
    match name {
        Some(name) if !name.as_str().starts_with("unknown_service") => resource,
        _ => builder().with_service_name(SERVICE).build(),
    }
}

pub(super) fn meter_provider(
    settings: &OtelSettings,
    resource: &Resource,
    registry: &prometheus::Registry,
) -> Result<SdkMeterProvider, TelemetryError> {
    let wrong = |reason: String| TelemetryError::Exporter {
        signal: "metrics",
        reason,
    };
    let page = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    let mut builder = SdkMeterProvider::builder()
        .with_resource(resource.clone())
        .with_reader(page);
    if let Some(endpoint) = &settings.metrics {
        let exporter = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        builder = builder.with_periodic_exporter(exporter);
    }
    Ok(builder.build())
}

/// The provider of spans and the state of their collector, if there is an endpoint for them.
pub(super) fn traces(
    settings: &OtelSettings,
    resource: &Resource,
) -> Result<Option<(SdkTracerProvider, Arc<Collector>)>, TelemetryError> {
    let Some(endpoint) = &settings.traces else {
        return Ok(None);
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| TelemetryError::Exporter {
            signal: "traces",
            reason: error.to_string(),
        })?;
    let collector = Arc::new(Collector::new(endpoint));
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.clone())
        .with_sampler(settings.sampler.clone())
        .with_batch_exporter(WatchedExporter {
            inner: exporter,
            collector: collector.clone(),
        })
        .build();
    Ok(Some((provider, collector)))
}
