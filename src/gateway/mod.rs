//! The gateway: built from the settings, bound to its addresses, and served until shutdown.

mod config;
mod kept;
mod observed;
mod sharing;
mod tasks;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use llamatower_layers::EndpointTable;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::live::Live;
use llamatower_layers::model_alias::Aliases;

pub(crate) use self::config::fleet_config;
use self::config::{access, bind_if_any, edge_tls, endpoints, public_edge};
use self::kept::Kept;
use self::tasks::Tasks;
use crate::activity::Activity;
use crate::admin::{self, Sources};
use crate::cloud::Cloud;
use crate::edge::{
    Audience, BindError, Drained, Edge, EdgeConfig, ListenAddr, Origins, RequestBody, Shutdown,
};
use crate::live::LiveSettings;
use crate::model_sync::{ModelSync, SyncStatus};
use crate::ollama::fleet::Fleet;
use crate::ollama::upstream::Access;
use crate::settings::{Listener, Settings};
use crate::shared::Sharing;
use crate::stack::{self, Attempt, Handles};
use crate::telemetry::Telemetry;
use crate::tls::{Certificates, TlsError};

/// The servers, and how one attempt reaches one of them.
type GatewayFleet = Fleet<Attempt<RequestBody>>;

/// The time at the end to count in Redis what is not counted yet.
const COUNT_AT_END: Duration = Duration::from_secs(1);

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Listening on an address failed.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A setting's value cannot be used, for a reason that its syntax does not show.
    #[error("{0}")]
    Setting(String),
    /// A file for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The signal handlers cannot be installed.
    #[error("cannot install the signal handlers: {0}")]
    Signals(#[source] io::Error),
}

/// A gateway that is bound to its addresses and does not accept connections yet.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    telemetry: Arc<Telemetry>,
    endpoints: EndpointTable,
    live: LiveSettings,
    sharing: Sharing,
    access: Access,
    cloud: Option<Arc<Cloud>>,
    certificates: Option<Certificates>,
    kept: Kept,
    public: Edge,
    admin: Option<Edge>,
    metrics: Option<Edge>,
}

impl Gateway {
    /// Binds all addresses of the settings.
    ///
    /// # Errors
    /// See [`StartError`]. An unreachable backend is not an error.
    pub async fn bind(settings: &Settings, telemetry: &Arc<Telemetry>) -> Result<Self, StartError> {
        let endpoints = endpoints(settings)?;
        let sharing = Sharing::start(settings, telemetry.metrics());
        let live = LiveSettings::with_sharing(settings, &sharing).map_err(StartError::Setting)?;
        let files = settings.tls.files(settings.listen.http2);
        let certificates = files.map(Certificates::load).transpose()?;
        let tls = |listener| edge_tls(settings, listener, certificates.as_ref());
        let mut public = public_edge(settings, &live, &endpoints, telemetry);
        public.tls = tls(Listener::Public);
        let mut admin = EdgeConfig {
            // From this machine it needs no keys, so the `Host` rule always applies: `*` has no effect.
            trusts_local_peers: true,
            hosts: settings.listen.allowed_hosts.clone().without_any().into(),
            // Pages that may use the models must not change servers.
            origins: Origins::none(),
            audience: Audience::Operators,
            endpoints: None,
            listen: settings.listen.admin.clone(),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(1),
            base_path: None,
            requires_proxy_protocol: false,
            tls: tls(Listener::Admin),
            ..public.clone()
        };
        let cloud = Cloud::new(settings, &live.cloud_clients, &sharing);
        let cloud = cloud.map_err(StartError::Setting)?;
        let access = access(settings)?;
        let public = Edge::bind(public).await?;
        // They serve until the drain is complete, but load balancers may ask them for it.
        admin.health_of = Some(public.gauges());
        let metrics = EdgeConfig {
            listen: settings.listen.metrics.clone(),
            tls: tls(Listener::Metrics),
            ..admin.clone()
        };
        let admin = bind_if_any(admin).await?;
        let metrics = bind_if_any(metrics).await?;
        Ok(Self {
            // After the addresses: a second gateway by mistake does not get here.
            kept: Kept::open(settings, &live, cloud.as_deref(), &sharing).await,
            live,
            sharing,
            access,
            cloud,
            certificates,
            public,
            admin,
            metrics,
            settings: settings.clone(),
            telemetry: telemetry.clone(),
            endpoints,
        })
    }

    /// The addresses for clients, with the ports that the system chose.
    pub fn local_addrs(&self) -> Vec<ListenAddr> {
        self.public.local_addrs()
    }

    /// The settings that can be changed while the gateway serves.
    pub fn live(&self) -> LiveSettings {
        self.live.clone()
    }

    /// Serves until `shutdown` is requested, then drains. The admin listener works until the drain
    /// is complete.
    pub async fn serve(mut self, shutdown: Shutdown) -> Drained {
        let (fleet, tasks) = (self.fleet(), Tasks::default());
        self.observe(&fleet);
        self.announce();
        let sync_status = self.keep_up(&fleet, &tasks, &shutdown);
        self.share(&fleet, &tasks);
        let (activity, operators_leave) = (Arc::<Activity>::default(), Shutdown::new());
        self.serve_operators(&fleet, &activity, sync_status, &tasks, &operators_leave);
        let uncounted = self.uncounted();
        let handles = Handles {
            cutoff: self.public.cutoff(),
            body_memory: self.settings.limits.body_memory.budget(),
            cloud: self.cloud,
            activity,
            usage: self.kept.usage,
            redis: self.sharing.redis().cloned(),
        };
        let service = stack::service::<RequestBody>(
            &self.settings,
            self.endpoints,
            &self.live,
            fleet,
            &self.telemetry,
            handles,
        );
        let drained = self.public.serve(service, shutdown).await;
        let _ = tokio::time::timeout(COUNT_AT_END, uncounted).await;
        tasks.stop();
        operators_leave.end_now();
        tasks.ended().await;
        drained
    }

    /// Starts the tasks that keep what the gateway knows of its servers, its files and its state up
    /// to date. Returns the status of the models' synchronisation.
    fn keep_up(&self, fleet: &Arc<GatewayFleet>, tasks: &Tasks, shutdown: &Shutdown) -> SyncStatus {
        let (metrics, status) = (self.telemetry.metrics(), SyncStatus::default());
        tasks.spawn(fleet.clone().supervise(tasks.stopped()));
        tasks.spawn(self.kept.state.clone().run(tasks.stopped()));
        let aliases = self.live.models.aliases.clone();
        tasks.spawn_until_stopped(tell_hidden_models(fleet.clone(), aliases));
        let repairing = tasks.stopped().child_token();
        let (sync, metrics_of_sync) = (self.live.sync.clone(), metrics.clone());
        let sync = ModelSync::new(fleet.clone(), sync, status.clone(), metrics_of_sync);
        tasks.spawn_until(repairing.clone(), sync.run::<ReplayBody<RequestBody>>());
        if let Some(certificates) = self.certificates.clone() {
            let metrics = metrics.clone();
            let watch = certificates.watch(move |is_applied| metrics.tls_reloaded(is_applied));
            tasks.spawn_until_stopped(watch);
        }
        let (draining, gauges, fleet) = (shutdown.clone(), self.public.gauges(), fleet.clone());
        tasks.spawn_until_stopped(async move {
            draining.draining().await;
            fleet.stop_preloads();
            repairing.cancel();
            tracing::info!(under_way = gauges.in_flight(), "draining");
        });
        status
    }

    /// Serves the pages for operators and the metrics until `leave`.
    fn serve_operators(
        &mut self,
        fleet: &Arc<GatewayFleet>,
        activity: &Arc<Activity>,
        sync: SyncStatus,
        tasks: &Tasks,
        leave: &Shutdown,
    ) {
        if let Some(listener) = self.admin.take() {
            let sources = Sources {
                telemetry: self.telemetry.clone(),
                fleet: fleet.clone(),
                activity: activity.clone(),
                cloud: self.cloud.clone(),
                sync,
                clients: self.public.gauges(),
                state: self.kept.state.clone(),
                sharing: self.sharing.clone(),
                shared_usage: self.kept.shared_usage.clone(),
                started_at: Timestamp::now(),
                trace_url: self.settings.telemetry.trace_url.clone(),
                live: self.live.clone(),
                certificates: self.certificates.clone(),
            };
            let (keys, limits) = (self.live.keys.clone(), &self.settings.limits);
            let checked = stack::api_keys(keys.clone(), limits, self.telemetry.metrics());
            let service = admin::service(sources, keys, checked);
            tasks.spawn(listener.serve(service, leave.clone()));
        }
        if let Some(listener) = self.metrics.take() {
            let service = admin::metrics_service(self.telemetry.clone());
            tasks.spawn(listener.serve(service, leave.clone()));
        }
    }

    /// Counts in Redis what is not counted yet, and gives the leases back.
    fn uncounted(&self) -> impl Future<Output = ()> + use<> {
        let (tokens, users) = (
            self.live.tokens.used.clone(),
            self.live.user_tokens.used.clone(),
        );
        let cloud = self.cloud.clone();
        let leases = self.sharing.leases().cloned();
        let (state, usage) = (self.kept.state.clone(), self.kept.shared_usage.clone());
        async move {
            tokens.settled().await;
            users.settled().await;
            if let Some(cloud) = &cloud {
                cloud.settled().await;
            }
            if let Some(leases) = &leases {
                leases.release().await;
            }
            if let Some(usage) = &usage {
                state.take_changes();
                usage.send().await;
            }
        }
    }

    fn fleet(&self) -> Arc<GatewayFleet> {
        let hosts = self.settings.backends.urls.clone();
        let mut config = fleet_config(&self.settings, &self.access);
        config.shares = self.live.shares.clone();
        config.cordons = self.kept.cordons.cordons();
        config.leases = self.sharing.leases().cloned();
        config.shared_loads = self.sharing.loads().cloned();
        config.loads = Some(Arc::new(Arc::downgrade(self.telemetry.metrics())));
        let (settings, access) = (self.settings.clone(), self.access.clone());
        let telemetry = self.telemetry.of_attempts();
        Arc::new(Fleet::new(hosts, config, move |backend, breaker| {
            stack::attempt(&settings, &access, backend, breaker, &telemetry)
        }))
    }

    /// The edges, by what they are for.
    fn edges(&self) -> impl Iterator<Item = (&'static str, &Edge)> {
        let edges = [
            ("clients", Some(&self.public)),
            ("operators", self.admin.as_ref()),
            ("metrics", self.metrics.as_ref()),
        ];
        edges
            .into_iter()
            .filter_map(|(audience, edge)| Some((audience, edge?)))
    }

    fn announce(&self) {
        for (audience, edge) in self.edges() {
            for (address, is_tls) in edge.addresses() {
                match is_tls {
                    true => tracing::info!(%address, "for" = audience, tls = true, "listening"),
                    false => tracing::info!(%address, "for" = audience, "listening"),
                }
            }
        }
        for backend in &self.settings.backends.urls {
            tracing::info!(%backend, "configured backend");
        }
    }
}

/// Logs the models that clients cannot reach by their names, because aliases have these names, once
/// the models are known.
async fn tell_hidden_models<S>(fleet: Arc<Fleet<S>>, aliases: Live<Aliases>) {
    fleet.probed_once().await;
    let aliases = aliases.get();
    for alias in aliases.iter().filter(|alias| fleet.knows(alias.text())) {
        let models = aliases.in_listed_order(alias);
        if models.iter().all(|model| model.name != *alias.name()) {
            tracing::info!(
                alias = %alias.text(),
                "an alias has the name of an installed model; requests for this name get the alias's models"
            );
        }
    }
}
