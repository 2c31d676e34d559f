//! The configurations of the gateway's parts, from its settings.

use std::num::NonZeroUsize;
use std::sync::Arc;

use llamatower_layers::EndpointTable;
use llamatower_layers::breaker::BreakerPolicy;

use super::StartError;
use crate::edge::{Audience, BindError, Edge, EdgeConfig, EdgeTls};
use crate::live::LiveSettings;
use crate::ollama::fleet::{Dns, FleetConfig, ProbeClocks, QueueRules};
use crate::ollama::upstream::Access;
use crate::settings::{Breaking, Http2, Listener, Settings};
use crate::telemetry::Telemetry;
use crate::tls::Certificates;

/// Binds the addresses of an edge, if it has any.
pub(super) async fn bind_if_any(config: EdgeConfig) -> Result<Option<Edge>, BindError> {
    match config.listen.is_empty() {
        true => Ok(None),
        false => Edge::bind(config).await.map(Some),
    }
}

/// TLS of a listener; `None` if none of its addresses speaks it.
pub(super) fn edge_tls(
    settings: &Settings,
    listener: Listener,
    certificates: Option<&Certificates>,
) -> Option<EdgeTls> {
    let addresses = settings.listening(listener).tls;
    let certificates = certificates.filter(|_| !addresses.is_empty())?.clone();
    Some(EdgeTls {
        addresses,
        certificates,
    })
}

/// The fleet's configuration, from the settings.
pub(crate) fn fleet_config(settings: &Settings, access: &Access) -> FleetConfig {
    let (backends, queue) = (&settings.backends, &settings.queue);
    FleetConfig {
        clocks: ProbeClocks {
            interval: backends.probe_interval,
            timeout: backends.probe_timeout,
            connect: settings.timeouts.connect,
        },
        dns: Dns {
            servers: backends.dns_servers.clone(),
            min_ttl: backends.dns_min_ttl,
        },
        access: access.clone(),
        slots: backends.slots_of_each(),
        servers: backends.rules_of_each(),
        context: settings.limits.context(),
        queue: QueueRules {
            max_waiting: queue.max_waiting.get(),
            max_waiting_per_key: queue.max_waiting_per_key.map(NonZeroUsize::get),
            max_predicted_wait: queue.max_predicted_wait,
            max_wait: queue.max_wait,
            ageing: queue.ageing,
        },
        load_timeout: settings.timeouts.load,
        breaker: breaker_policy(&settings.breaker),
        ..FleetConfig::default()
    }
}

pub(super) fn breaker_policy(settings: &Breaking) -> BreakerPolicy {
    BreakerPolicy::default()
        .with_consecutive_failures(settings.failures)
        .with_failure_ratio(settings.ratio, settings.min_requests)
        .with_window(settings.window)
        .with_open_for(settings.open_for, settings.open_at_most)
}

pub(super) fn public_edge(
    settings: &Settings,
    live: &LiveSettings,
    endpoints: &EndpointTable,
    telemetry: &Telemetry,
) -> EdgeConfig {
    let (listen, timeouts) = (&settings.listen, &settings.timeouts);
    EdgeConfig {
        listen: listen.public.clone(),
        header_timeout: timeouts.header,
        keep_alive_timeout: timeouts.keep_alive,
        body_timeout: Some(timeouts.body_read),
        write_stall_timeout: Some(timeouts.write_stall),
        // The stream clocks enforce it, because they can send the client an error.
        total_timeout: None,
        drain_delay: timeouts.drain_delay,
        drain_timeout: timeouts.drain,
        max_head_bytes: listen.max_head_bytes,
        max_head_fields: listen.max_head_fields.get(),
        max_connections: listen.max_connections.get(),
        base_path: listen.base_path.clone(),
        origins: listen.origins.clone(),
        hosts: live.hosts.clone(),
        audience: Audience::Clients,
        trusts_local_peers: false,
        trusted_proxies: listen.trusted_proxies.clone(),
        requires_proxy_protocol: listen.proxy_protocol,
        endpoints: Some(Arc::new(endpoints.clone())),
        observer: Some(telemetry.observer()),
        health_of: None,
        tls: None,
        plain_http2: listen.http2 == Http2::All,
    }
}

pub(super) fn endpoints(settings: &Settings) -> Result<EndpointTable, StartError> {
    let endpoints = settings.backends.endpoints();
    endpoints.map_err(|error| StartError::Setting(format!("LLAMATOWER_EXTRA_PATHS: {error}")))
}

pub(super) fn access(settings: &Settings) -> Result<Access, StartError> {
    let access = settings.backends.access();
    access.map_err(|error| StartError::Setting(format!("LLAMATOWER_BACKEND_CA_FILE: {error}")))
}
