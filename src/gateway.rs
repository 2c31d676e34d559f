//! The gateway: built from the settings, bound to its addresses, and served until shutdown.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use llamatower_layers::EndpointTable;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::breaker::BreakerPolicy;
use llamatower_layers::live::Live;
use llamatower_layers::model_alias::Aliases;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activity::Activity;
use crate::admin::{self, Sources};
use crate::cloud::Cloud;
use crate::edge::{
    BindError, Drained, Edge, EdgeConfig, EdgeTls, ListenAddr, Origins, RequestBody, Shutdown,
    machine_name,
};
use crate::live::LiveSettings;
use crate::model_sync::{ModelSync, SyncStatus};
use crate::ollama::fleet::{Dns, Fleet, FleetConfig, ProbeClocks, QueueRules};
use crate::ollama::upstream::Access;
use crate::settings::{Breaking, Http2, Listener, Settings};
use crate::shared::{About, Membership, Peers, SharedUsage, Sharing};
use crate::stack::{self, Attempt, Handles};
use crate::state::{ChangeSignal, KeptCordons, Persist, State, StateConfig, Windows};
use crate::telemetry::{BudgetUse, FleetView, SharedUse, Telemetry};
use crate::tls::{Certificates, TlsError};
use crate::usage::Usage;
use crate::version;

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

/// What is kept over a restart.
#[derive(Debug)]
struct Kept {
    state: Arc<State>,
    usage: Arc<Usage>,
    shared_usage: Option<SharedUsage>,
    cordons: Arc<KeptCordons>,
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
        let admin = EdgeConfig {
            // From this machine it needs no keys, so the `Host` rule always applies: `*` has no effect.
            trusts_local_peers: true,
            hosts: settings.listen.allowed_hosts.clone().without_any().into(),
            // Pages that may use the models must not change servers.
            origins: Origins::none(),
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
    pub async fn serve(self, shutdown: Shutdown) -> Drained {
        let fleet = self.fleet();
        let metrics = self.telemetry.metrics();
        if self
            .public
            .addresses()
            .next()
            .is_some_and(|(_, is_tls)| is_tls)
        {
            metrics.set_scheme("https");
        }
        metrics.begin(self.endpoints.endpoints());
        metrics.observe(fleet.clone());
        for (audience, edge) in self.edges() {
            metrics.observe_listener(audience, edge.gauges());
        }
        metrics.observe_runtime();
        metrics.observe_reloads(self.live.last_reload.clone());
        self.live.begin_counters(metrics);
        metrics.observe_budgets(budgets(self.live.clone(), self.cloud.clone()));
        let (state, shared_usage) = (self.kept.state.clone(), self.kept.shared_usage.clone());
        let leases = self.sharing.leases().cloned();
        let observed = state.clone();
        metrics.observe_state(move || {
            let health = observed.health();
            let is_wanted = health.file.is_some() || health.problem.is_some();
            is_wanted.then(|| health.is_kept())
        });
        if let Some(certificates) = &self.certificates {
            let certificates = certificates.clone();
            metrics.observe_certificate(move || certificates.status().expires_at);
        }
        self.announce();
        let (tasks, stopped) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(fleet.clone().supervise(stopped.clone()));
        let aliases = self.live.models.aliases.clone();
        let hidden = tell_hidden_models(fleet.clone(), aliases);
        tasks.spawn(stopped.clone().run_until_cancelled_owned(hidden));
        let (repairing, sync_status) = (stopped.child_token(), SyncStatus::default());
        let sync = ModelSync::new(
            fleet.clone(),
            self.live.sync.clone(),
            sync_status.clone(),
            metrics.clone(),
        );
        let sync = sync.run::<ReplayBody<RequestBody>>();
        tasks.spawn(repairing.clone().run_until_cancelled_owned(sync));
        if let Some(certificates) = self.certificates.clone() {
            let metrics = metrics.clone();
            let watch = certificates.watch(move |is_applied| metrics.tls_reloaded(is_applied));
            tasks.spawn(stopped.clone().run_until_cancelled_owned(watch));
        }
        let activity = Arc::<Activity>::default();
        self.kept.usage.observe(fleet.clone());
        self.kept.cordons.observe(fleet.clone());
        tasks.spawn(self.kept.state.clone().run(stopped.clone()));
        self.share(&fleet, &tasks, &stopped);
        let operators_leave = Shutdown::new();
        if let Some(listener) = self.admin {
            let sources = Sources {
                telemetry: self.telemetry.clone(),
                fleet: fleet.clone(),
                activity: activity.clone(),
                cloud: self.cloud.clone(),
                sync: sync_status,
                clients: self.public.gauges(),
                state: self.kept.state,
                sharing: self.sharing.clone(),
                shared_usage: self.kept.shared_usage.clone(),
                started_at: Timestamp::now(),
                trace_url: self.settings.telemetry.trace_url.clone(),
                live: self.live.clone(),
                certificates: self.certificates,
            };
            let service = {
                let keys = self.live.keys.clone();
                let limits = &self.settings.limits;
                let checked = stack::api_keys(keys.clone(), limits, self.telemetry.metrics());
                admin::service(sources, keys, checked)
            };
            tasks.spawn(listener.serve(service, operators_leave.clone()));
        }
        if let Some(listener) = self.metrics {
            let service = admin::metrics_service(self.telemetry.clone());
            tasks.spawn(listener.serve(service, operators_leave.clone()));
        }
        let (draining, gauges) = (shutdown.clone(), self.public.gauges());
        let drained_fleet = fleet.clone();
        tasks.spawn(stopped.clone().run_until_cancelled_owned(async move {
            draining.draining().await;
            drained_fleet.stop_preloads();
            repairing.cancel();
            tracing::info!(under_way = gauges.in_flight(), "draining");
        }));
        let (tokens, cloud) = (self.live.tokens.used.clone(), self.cloud.clone());
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
        let uncounted = async {
            tokens.settled().await;
            if let Some(cloud) = &cloud {
                cloud.settled().await;
            }
            if let Some(leases) = &leases {
                leases.release().await;
            }
            if let Some(usage) = &shared_usage {
                state.take_changes();
                usage.send().await;
            }
        };
        let _ = tokio::time::timeout(COUNT_AT_END, uncounted).await;
        stopped.cancel();
        operators_leave.end_now();
        tasks.close();
        tasks.wait().await;
        drained
    }

    /// Starts what gateways exchange, and tells the metrics.
    fn share(
        &self,
        fleet: &Arc<Fleet<Attempt<RequestBody>>>,
        tasks: &TaskTracker,
        stopped: &CancellationToken,
    ) {
        let (sharing, backends) = (self.sharing.clone(), &self.settings.backends);
        let peers = self.settings.sharing.peers.as_ref();
        let is_divided = peers.is_some() || sharing.redis().is_some();
        if let Some(peers) = peers {
            let (servers, min_ttl) = (backends.dns_servers.clone(), backends.dns_min_ttl);
            let peers = Peers::new(peers, servers, min_ttl, sharing.gateways().clone());
            tasks.spawn(stopped.clone().run_until_cancelled_owned(peers.run()));
        }
        let counted = peers.is_none().then(|| sharing.gateways().clone());
        let (cordons, about) = (self.kept.cordons.cordons(), self.about(fleet.clone()));
        if let Some(membership) = Membership::new(&sharing, counted, cordons, fleet.clone(), about)
        {
            tasks.spawn(stopped.clone().run_until_cancelled_owned(membership.run()));
        }
        if let Some(leases) = sharing.leases() {
            let run = leases.clone().run();
            tasks.spawn(stopped.clone().run_until_cancelled_owned(run));
            let (dividing, divided) = (leases.clone(), fleet.clone());
            let dividing = dividing.each_divisor(move |number| divided.divide_slots(number));
            tasks.spawn(stopped.clone().run_until_cancelled_owned(dividing));
            let (watching, stopped) = (fleet.clone(), stopped.clone());
            tasks.spawn(async move {
                let watching = watching.watch_full_lanes();
                stopped.run_until_cancelled(watching).await;
            });
        } else if is_divided {
            let fleet = fleet.clone();
            let dividing = sharing.gateways().clone();
            let dividing = dividing.each(move |number| fleet.divide_slots(number));
            tasks.spawn(stopped.clone().run_until_cancelled_owned(dividing));
        }
        if let Some(service) = sharing.service() {
            let (fleet, stopped) = (fleet.clone(), stopped.clone());
            tasks.spawn(async move {
                let sharing =
                    async { tokio::join!(fleet.share_fairness(service), fleet.share_loads()) };
                stopped.run_until_cancelled(sharing).await;
            });
        }
        if let Some(usage) = self.kept.shared_usage.clone() {
            tasks.spawn(stopped.clone().run_until_cancelled_owned(usage.run()));
        }
        let (tokens, cloud) = (self.live.tokens.used.clone(), self.cloud.clone());
        self.telemetry.metrics().observe_shared(move || SharedUse {
            gateways: is_divided.then(|| sharing.gateways().number().get()),
            is_connected: sharing.redis().map(|redis| redis.is_connected()),
            dropped_settlements: sharing.redis().map(|_| {
                let of_cloud = cloud
                    .as_ref()
                    .map_or(0, |cloud| cloud.dropped_settlements());
                tokens.dropped_settlements().saturating_add(of_cloud)
            }),
        });
    }

    /// What this gateway tells the others of itself.
    fn about(&self, fleet: Arc<dyn FleetView>) -> impl Fn() -> About + Send + Sync + 'static {
        let address = self.public.addresses().next();
        let known = About {
            host: machine_name().unwrap_or_default(),
            address: address
                .map(|(address, _)| address.to_string())
                .unwrap_or_default(),
            version: version::VERSION.to_owned(),
            ..About::default()
        };
        let clients = self.public.gauges();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        move || About {
            in_flight: number(clients.in_flight()),
            waiting: number(fleet.queue_status().iter().map(|row| row.waiting).sum()),
            is_draining: clients.is_draining(),
            ..known.clone()
        }
    }

    fn fleet(&self) -> Arc<Fleet<Attempt<RequestBody>>> {
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

impl Kept {
    /// Opens the file, and restores what is in it.
    async fn open(
        settings: &Settings,
        live: &LiveSettings,
        cloud: Option<&Cloud>,
        sharing: &Sharing,
    ) -> Self {
        let (zone, signal) = (settings.limits.time_zone.clone(), ChangeSignal::default());
        let usage = Arc::new(Usage::new(zone.clone(), signal.clone()));
        let cordons = Arc::new(KeptCordons::new(signal.clone()));
        let days = settings.state.usage_days.get();
        let redis = sharing.redis().cloned();
        let shared_usage = redis.map(|redis| SharedUsage::new(usage.clone(), redis, days));
        let kept_usage: Arc<dyn Persist> = match &shared_usage {
            Some(shared) => Arc::new(shared.clone()),
            None => usage.clone(),
        };
        let mut sources: Vec<Arc<dyn Persist>> = vec![
            kept_usage,
            Arc::new(Windows::new("tokens", live.tokens.used.own().clone())),
            Arc::new(Windows::new(
                "user_tokens",
                live.user_tokens.used.own().clone(),
            )),
            cordons.clone(),
        ];
        sources.extend(cloud.into_iter().flat_map(Cloud::windows));
        let config = StateConfig {
            directory: settings.state.directory.clone(),
            days,
            zone,
        };
        Self {
            state: State::open(config, signal, sources).await,
            usage,
            shared_usage,
            cordons,
        }
    }
}

/// Binds the addresses of an edge, if it has any.
async fn bind_if_any(config: EdgeConfig) -> Result<Option<Edge>, BindError> {
    match config.listen.is_empty() {
        true => Ok(None),
        false => Edge::bind(config).await.map(Some),
    }
}

/// TLS of a listener; `None` if none of its addresses speaks it.
fn edge_tls(
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

/// The token budgets of the keys and of the cloud service.
fn budgets(live: LiveSettings, cloud: Option<Arc<Cloud>>) -> impl Fn() -> Vec<BudgetUse> {
    move || {
        let keys = live.keys.get();
        let keys = keys.identities().map(|key| key.name.clone());
        let mut uses = live.tokens.uses(keys);
        uses.extend(cloud.as_ref().and_then(|cloud| cloud.budget_use()));
        uses
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

fn breaker_policy(settings: &Breaking) -> BreakerPolicy {
    BreakerPolicy::default()
        .with_consecutive_failures(settings.failures)
        .with_failure_ratio(settings.ratio, settings.min_requests)
        .with_window(settings.window)
        .with_open_for(settings.open_for, settings.open_at_most)
}

fn public_edge(
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
        trusts_local_peers: false,
        trusted_proxies: listen.trusted_proxies.clone(),
        requires_proxy_protocol: listen.proxy_protocol,
        endpoints: Some(Arc::new(endpoints.clone())),
        observer: Some(telemetry.observer()),
        tls: None,
        plain_http2: listen.http2 == Http2::All,
    }
}

fn endpoints(settings: &Settings) -> Result<EndpointTable, StartError> {
    let endpoints = settings.backends.endpoints();
    endpoints.map_err(|error| StartError::Setting(format!("LLAMATOWER_EXTRA_PATHS: {error}")))
}

fn access(settings: &Settings) -> Result<Access, StartError> {
    let access = settings.backends.access();
    access.map_err(|error| StartError::Setting(format!("LLAMATOWER_BACKEND_CA_FILE: {error}")))
}
