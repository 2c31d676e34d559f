//! The gateway: everything put together from the settings, bound, and served until it is to end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::EndpointTable;
use llamatower_layers::api_key::{KeySet, Role};
use llamatower_layers::body::MemoryBudget;
use tokio::sync::watch;

use crate::admin::{self, Admin};
use crate::edge::{BindError, Drained, Edge, EdgeConfig, ListenAddr, RequestBody, Shutdown};
use crate::ollama::fleet::{BackendStatus, Fleet, FleetConfig, ProbeClocks, QueueStatus};
use crate::settings::{Secret, Settings, SizeOrShare};
use crate::stack::{self, Attempt, Handles};
use crate::telemetry::{BackendRow, QueueRow, Telemetry};

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A setting is wrong in a way that its form does not show.
    #[error("{0}")]
    Setting(String),
    /// The signals that end the process cannot be listened to.
    #[error("signals cannot be listened to: {0}")]
    Signals(#[source] io::Error),
}

/// A gateway that is bound to its addresses and does not accept yet.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    telemetry: Arc<Telemetry>,
    endpoints: EndpointTable,
    keys: KeySet,
    public: Edge,
    admin: Option<Edge>,
}

impl Gateway {
    /// Binds all addresses of the settings.
    ///
    /// # Errors
    /// See [`StartError`]. A backend that cannot be reached is no error.
    pub async fn bind(settings: &Settings, telemetry: &Arc<Telemetry>) -> Result<Self, StartError> {
        let endpoints = endpoints(settings)?;
        let public = public_edge(settings, &endpoints);
        let admin = EdgeConfig {
            listen: settings.listen.admin.clone(),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(1),
            base_path: None,
            ..public.clone()
        };
        Ok(Self {
            keys: keys(settings)?,
            public: Edge::bind(public).await?,
            admin: match admin.listen.is_empty() {
                true => None,
                false => Some(Edge::bind(admin).await?),
            },
            settings: settings.clone(),
            telemetry: telemetry.clone(),
            endpoints,
        })
    }

    /// Where clients connect, with the ports that were taken.
    pub fn local_addrs(&self) -> Vec<ListenAddr> {
        self.public.local_addrs()
    }

    /// Serves until `shutdown` is asked for, then drains. Operators are served to the end of
    /// that.
    pub async fn serve(self, shutdown: Shutdown) -> Drained {
        let fleet = self.fleet();
        let metrics = self.telemetry.metrics();
        let rows = fleet.clone();
        metrics.set_backends(move || rows.status().into_iter().map(row).collect());
        let waiting = fleet.clone();
        metrics.set_queue(move || waiting.queue_status().into_iter().map(queue_row).collect());
        let known = fleet.clone();
        metrics.set_known_models(move |model| known.knows(model));
        self.announce();
        let (stop, stopped) = watch::channel(false);
        let watching = tokio::spawn({
            let fleet = fleet.clone();
            async move { fleet.keep_watch(stopped).await }
        });
        let handles = Handles {
            cutoff: self.public.cutoff(),
            body_memory: body_memory(&self.settings),
        };
        let fleet_for_status = fleet.clone();
        let service = stack::service::<RequestBody>(
            &self.settings,
            self.endpoints,
            self.keys,
            fleet,
            &self.telemetry,
            handles,
        );
        let seen = fleet_for_status;
        let status = Arc::new(move || admin::Status::of(&seen.status(), &seen.queue_status()));
        let admin_shutdown = Shutdown::new();
        let admin = self.admin.map(|admin| {
            let service = Admin::new(self.telemetry.clone(), status);
            tokio::spawn(admin.serve(service, admin_shutdown.clone()))
        });
        let telling = tokio::spawn({
            let (shutdown, gauges) = (shutdown.clone(), self.public.gauges());
            async move {
                shutdown.draining().await;
                tracing::info!(under_way = gauges.in_flight(), "draining");
            }
        });
        let drained = self.public.serve(service, shutdown).await;
        telling.abort();
        stop.send_replace(true);
        let _ = watching.await;
        admin_shutdown.end_now();
        if let Some(admin) = admin {
            let _ = admin.await;
        }
        drained
    }

    fn fleet(&self) -> Arc<Fleet<Attempt<RequestBody>>> {
        let hosts = self.settings.backends.addresses.clone();
        let config = fleet_config(&self.settings);
        let settings = self.settings.clone();
        let propagation = self.telemetry.propagation();
        Arc::new(Fleet::new(hosts, config, move |backend, breaker| {
            stack::attempt(&settings, backend, breaker, propagation)
        }))
    }

    fn announce(&self) {
        let edges = [
            ("clients", Some(&self.public)),
            ("operators", self.admin.as_ref()),
        ];
        for (audience, edge) in edges {
            for address in edge.map(Edge::local_addrs).unwrap_or_default() {
                tracing::info!(%address, "for" = audience, "listening");
            }
        }
        for backend in &self.settings.backends.addresses {
            tracing::info!(%backend, "a backend");
        }
    }
}

fn fleet_config(settings: &Settings) -> FleetConfig {
    let backends = &settings.backends;
    let shares = settings.limits.key_limits.iter();
    FleetConfig {
        clocks: ProbeClocks {
            interval: backends.probe_interval,
            timeout: backends.probe_timeout,
            connect: settings.timeouts.connect,
        },
        dns: backends.dns.clone(),
        access: backends.access.clone(),
        slots: backends.slots_of_each(),
        queue: settings.queue,
        breaker: settings.breaker,
        shares: shares
            .map(|(name, limits)| (name.clone(), limits.share))
            .collect(),
    }
}

fn public_edge(settings: &Settings, endpoints: &EndpointTable) -> EdgeConfig {
    let (listen, timeouts) = (&settings.listen, &settings.timeouts);
    EdgeConfig {
        listen: listen.public.clone(),
        header_timeout: timeouts.header,
        keep_alive_timeout: timeouts.keep_alive,
        body_timeout: Some(timeouts.body_read),
        write_stall_timeout: Some(timeouts.write_stall),
        // The stream clocks keep it, and tell the client.
        total_timeout: None,
        drain_delay: timeouts.drain_delay,
        drain_timeout: timeouts.drain,
        max_connections: listen.max_connections.get(),
        base_path: listen.base_path.clone(),
        origins: listen.origins.clone(),
        endpoints: Some(Arc::new(endpoints.clone())),
    }
}

fn endpoints(settings: &Settings) -> Result<EndpointTable, StartError> {
    let extra = settings.backends.extra_paths.iter();
    extra
        .clone()
        .try_fold(EndpointTable::ollama(), |table, extra| {
            let added = table.with_path(&extra.path, &extra.methods);
            added.map_err(|error| StartError::Setting(format!("LLAMATOWER_EXTRA_PATHS: {error}")))
        })
}

fn keys(settings: &Settings) -> Result<KeySet, StartError> {
    let of = |variable: &'static str, lines: &[Secret], role| {
        let lines = lines.iter().map(Secret::expose);
        let keys = KeySet::from_lines(lines, role);
        keys.map_err(|error| StartError::Setting(format!("{variable}: {error}")))
    };
    let api = of("LLAMATOWER_API_KEYS", &settings.keys.api, Role::User)?;
    let admin = of("LLAMATOWER_ADMIN_KEYS", &settings.keys.admin, Role::Admin)?;
    Ok(api.merge(admin))
}

fn body_memory(settings: &Settings) -> MemoryBudget {
    match settings.limits.body_memory {
        SizeOrShare::Bytes(bytes) => MemoryBudget::new(bytes),
        SizeOrShare::Share(share) => MemoryBudget::of_this_machine(share),
    }
}

fn queue_row(status: QueueStatus) -> QueueRow {
    QueueRow {
        model: status.model,
        waiting: status.waiting as u64,
    }
}

fn row(status: BackendStatus) -> BackendRow {
    BackendRow {
        name: status.name,
        is_up: status.is_up,
        in_flight: status.in_flight as u64,
        slots: status.slots.map(|slots| slots.get() as u64),
        breaker: status.breaker,
    }
}
