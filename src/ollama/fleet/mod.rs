//! The fleet: the backends, their models, and the choice of a backend for each request.
//!
//! A supervisor resolves host names and probes the backends; requests only read its results. The
//! choice is a short critical section, so that two requests never take the same free slot.

mod backend;
mod catalogue;
mod choice;
mod config;
mod cordon;
mod dispatch;
mod drift;
pub(crate) mod estimates;
mod explain;
mod fairness;
mod flight;
mod inventory;
mod known;
mod leasing;
mod load_request;
mod managed;
mod member;
mod memory_change;
mod not_found;
mod observe;
pub(crate) mod outlier;
mod permit;
mod place;
pub(crate) mod policy;
mod preload;
mod resolve;
mod router;
mod rules;
mod shared_loads;
mod status;
mod supervise;
mod targets;
mod trial;
mod wait_timer;
mod waiting;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::request::Parts;
use llamatower_layers::Record;
use llamatower_layers::breaker::Breaker;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::queue::Queue;
use llamatower_layers::retry::Attempts;
use llamatower_layers::route::Choice;

pub use backend::{Backend, Unreachable};
pub use choice::Wait;
pub use config::{ContextRules, Dns, FleetConfig, ProbeClocks, QueueRules, Share, SlotRule};
pub use cordon::{Cordoned, Cordons};
pub use dispatch::{Class, Dispatcher, Need};
pub use drift::Drift;
pub use explain::LatestChoice;
pub use inventory::{Installed, Resident, short_digest};
pub use known::FleetModels;
pub use leasing::Leasing;
pub use managed::Managed;
pub use member::Slot;
pub use memory_change::{MemoryChange, MemoryChangeFailed};
pub use not_found::ModelNotFound;
pub use observe::Observed;
pub use outlier::{Avoided, Reason};
pub use permit::Permit;
#[doc(hidden)]
pub use policy::ChoiceBench;
pub use policy::{
    Availability, Candidate, Decision, DecisionId, MemoryStatus, ModelStatus, Occupancy,
};
pub use policy::{ReportedLoad, Residency, SlotSource, SlotStatus, Terms};
pub use preload::{PreloadState, PreloadStatus};
pub use router::LoadObserver;
pub use rules::{AllowedModels, InvalidPattern, ModelPattern, Preload, ServerRules};
pub use status::{BackendStatus, QueueStatus};
pub use targets::{Chosen, Concern, Targets, UnusableTargets};
pub use wait_timer::WaitsForBackend;
pub use waiting::{CancelledByOperator, Waiting};

use crate::ollama::upstream::Address;
use catalogue::Catalogue;
use choice::{body_bytes, model_of, record_choice};
use estimates::Estimates;
use leasing::FullLanes;
use member::{Member, PolicyEntry};
pub(crate) use place::Places;
use policy::ServerSpec;
pub(crate) use resolve::Resolver;
use router::Router;
use shared_loads::LoadsElsewhere;

type MakeService<S> = dyn Fn(&Arc<Backend>, &Breaker) -> S + Send + Sync;

/// All backends, a service for each, and the queue in front of them.
pub struct Fleet<S> {
    hosts: Vec<Address>,
    resolver: Resolver,
    make_service: Box<MakeService<S>>,
    catalogue: Arc<Catalogue<S>>,
    queue: Queue<Dispatcher<S>>,
    router: Router,
    estimates: Arc<Estimates>,
    full_lanes: FullLanes,
    loads_elsewhere: LoadsElsewhere,
    config: FleetConfig,
    /// The gateway begins no load by itself any more.
    is_draining: AtomicBool,
}

/// The `num_ctx` that a backend gets instead of that in the request; stored in the request's
/// extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentNumCtx(pub(crate) Option<u64>);

/// The model is pinned on the chosen backend: the request must not shorten its time in memory.
/// Stored in the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeepInMemory;

/// The chosen backend may have to load a model before it can answer; stored in the request's
/// extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MayLoad;

impl<S> Fleet<S> {
    /// A fleet of the backends at `hosts`. `make_service` creates the service of each backend; the
    /// service reports results to the breaker that it is given. Once [`supervise`](Self::supervise)
    /// runs, a host name stands for all of its addresses, with a backend for each.
    pub fn new(
        hosts: Vec<Address>,
        config: FleetConfig,
        make_service: impl Fn(&Arc<Backend>, &Breaker) -> S + Send + Sync + 'static,
    ) -> Self {
        let make_service: Box<MakeService<S>> = Box::new(make_service);
        let router = Router::new(config.loads.clone());
        let members = hosts.iter().enumerate().map(|(host, address)| {
            let backend = Backend::new(address.clone(), config.clocks.connect, &config.access);
            let member = new_member(host, backend, &config, &*make_service, &router, None);
            vec![Arc::new(member)]
        });
        let catalogue = Arc::new(Catalogue::new(members.collect()));
        let queue = Dispatcher::new(catalogue.clone(), router.clone());
        let queue = config.queue.queue(queue);
        Self {
            queue: match config.leases {
                Some(_) => queue.with_exchange(),
                None => queue,
            },
            estimates: Arc::default(),
            full_lanes: FullLanes::default(),
            loads_elsewhere: LoadsElsewhere::default(),
            resolver: Resolver::new(&config.dns),
            hosts,
            make_service,
            catalogue,
            router,
            config,
            is_draining: AtomicBool::new(false),
        }
    }

    /// A backend that was just discovered at one of the hosts.
    fn new_member_down(&self, host: usize, address: Address) -> Arc<Member<S>> {
        let backend = Backend::new_down(address, self.config.clocks.connect, &self.config.access);
        let member = new_member(
            host,
            backend,
            &self.config,
            &*self.make_service,
            &self.router,
            None,
        );
        Arc::new(member)
    }

    /// A backend with another name than `before`, which is the same server. It takes over its requests in
    /// flight, what is known of it, and the cordon, so that it gets requests at once and no more than
    /// before.
    fn renamed_member(&self, host: usize, address: Address, before: &Member<S>) -> Arc<Member<S>> {
        if before.backend.is_cordoned() {
            self.config.cordons.set(&address.to_string(), true);
        }
        let open = match before.backend.is_up() {
            true => Backend::new,
            false => Backend::new_down,
        };
        let backend = open(address, self.config.clocks.connect, &self.config.access);
        let make_service = &*self.make_service;
        let entry = Some(before.entry.clone());
        let member = new_member(
            host,
            backend,
            &self.config,
            make_service,
            &self.router,
            entry,
        );
        Arc::new(member.in_place_of(before))
    }

    /// The current backends, in the order of the configuration.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        let members = self.catalogue.members();
        let all = members.all().iter();
        all.map(|member| member.backend.clone()).collect()
    }

    /// Whether a backend has a model of this name, as written by the client.
    pub fn knows(&self, model: &str) -> bool {
        let members = self.catalogue.members();
        let name = members.name(model);
        name.is_some_and(|name| !members.holders(&name).is_empty())
    }

    /// Whether a backend has a model. If none is known to have it, the catalogue is refreshed
    /// first.
    pub async fn has(&self, model: ModelName) -> bool {
        let is_known = |model: &ModelName| !self.catalogue.members().holders(model).is_empty();
        if is_known(&model) {
            return true;
        }
        self.await_model(model.clone()).await;
        is_known(&model)
    }

    /// The digest of the request's model, if it is the same on all backends that have it.
    pub fn version_of(&self, request: &Parts) -> Option<Arc<str>> {
        let members = self.catalogue.members();
        members.digest(&members.name(model_of(request)?)?)
    }

    /// Requests a refresh of the catalogue now, before the next regular probe.
    pub fn refresh(&self) {
        self.catalogue.ask_for_refresh();
    }

    /// The service and a slot of a specific backend. The request does not wait, even if no slot is
    /// free.
    fn take(&self, member: &Arc<Member<S>>, request: &Parts) -> Choice<S, Permit<S>>
    where
        S: Clone,
    {
        let (attempts, record) = (
            Attempts::of(&request.extensions),
            Record::of(&request.extensions),
        );
        record_choice(&member.backend, None, attempts, record);
        Choice {
            service: member.service.own_instance(),
            slot: Permit::unqueued(member.take(None)),
        }
    }

    /// The service and a slot of the first backend of a configured host.
    pub fn take_at(&self, host: usize, request: &Parts) -> Option<Choice<S, Permit<S>>>
    where
        S: Clone,
    {
        let members = self.catalogue.members();
        let first = members.of_host(host).first();
        first.map(|member| self.take(member, request))
    }

    /// The services and slots of the backends that have a model in memory; each backend is asked
    /// now.
    pub async fn take_all_with_loaded(
        &self,
        model: &ModelName,
        request: &Parts,
    ) -> Vec<Choice<S, Permit<S>>>
    where
        S: Clone,
    {
        let members = self.catalogue.members().all().to_vec();
        // The models of other servers stay in memory.
        let is_ollama = |member: &Arc<Member<S>>| member.backend.openai().is_none();
        let members: Vec<_> = members.into_iter().filter(is_ollama).collect();
        let queries = members.iter().map(|member| async {
            let resident = member.backend.resident(self.config.clocks.timeout).await;
            let rows = resident.ok().flatten().unwrap_or_default();
            member.backend.allows(model) && rows.iter().any(|row| row.name == *model)
        });
        let found = futures_util::future::join_all(queries).await;
        let holders = members.iter().zip(found).filter(|(_, has)| *has);
        holders
            .map(|(member, _)| self.take(member, request))
            .collect()
    }

    /// Waits until every backend was probed once; [`supervise`](Self::supervise) must run.
    pub async fn probed_once(&self) {
        self.catalogue.probed_once().await;
    }

    /// Time-out of the gateway's own requests.
    pub fn probe_timeout(&self) -> Duration {
        self.config.clocks.timeout
    }
}

impl<S: fmt::Debug> fmt::Debug for Fleet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("hosts", &self.hosts)
            .field("members", &self.catalogue.members().all())
            .finish_non_exhaustive()
    }
}

/// A member of the fleet; `entry` is its entry in the policy, if it is there already.
fn new_member<S>(
    host: usize,
    backend: Backend,
    config: &FleetConfig,
    make_service: &MakeService<S>,
    router: &Router,
    entry: Option<Arc<PolicyEntry>>,
) -> Member<S> {
    let rules = config.servers.get(host).cloned().unwrap_or_default();
    let slots = config.slot_rule(host);
    let max_in_flight = rules.max_in_flight.map(NonZeroUsize::get);
    let pinned = rules.preloads.iter().filter(|preload| preload.is_pinned);
    let spec = ServerSpec {
        name: backend.name().clone(),
        weight: rules.weight,
        slots: slots.configured(),
        max_in_flight: max_in_flight.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        pinned: pinned.map(|preload| preload.model.clone()).collect(),
        keeps_models: backend.openai().is_some(),
    };
    let entry = entry.unwrap_or_else(|| PolicyEntry::new(spec, router));
    let backend = Arc::new(backend.with_rules(rules));
    if config.cordons.has(backend.name()) {
        backend.set_cordoned(true);
        tracing::warn!(backend = %backend.name(), "the backend is cordoned since before");
    }
    let breaker = breaker(&backend, config);
    let service = make_service(&backend, &breaker);
    Member::new(backend, breaker, service, slots, entry)
}

fn breaker(backend: &Arc<Backend>, config: &FleetConfig) -> Breaker {
    let name = backend.name().clone();
    Breaker::new(config.breaker).with_hook(move |from, to| {
        tracing::warn!(backend = %name, from = from.name(), to = to.name(), "the circuit breaker changed state");
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llamatower_layers::queue::Entry;
    use tokio::time::Instant;

    use super::member::tests::installed;
    use super::outlier::{Outcome, Standing};
    use super::*;

    #[tokio::test]
    async fn a_server_with_another_name_gets_no_more_requests_than_before() {
        let config = FleetConfig {
            slots: vec![SlotRule::Count(NonZeroUsize::MIN)],
            ..FleetConfig::default()
        };
        let fleet = Fleet::new(vec!["gpu:11434".parse().unwrap()], config, |_, _| ());
        let before = fleet.catalogue.members().all()[0].clone();
        let models = vec![installed("m"), installed("failing")];
        fleet.catalogue.note_probe(&before, Ok(models), 0);
        let [m, failing] = ["m", "failing"].map(|name| ModelName::parse(name).unwrap());
        let failed = Outcome::Bad(Reason::Failing, None);
        before.record_outcome(&failing, failed, Instant::now());
        let enter = || {
            let class = Class {
                model: Some(m.clone()),
                runs_model: true,
            };
            let entry = Entry::new(None, Need::default());
            Box::pin(fleet.queue.enter(class, entry).unwrap())
        };
        let held = enter().await.unwrap();

        let address: Address = "gpu-1:11434".parse().unwrap();
        let renamed = fleet.renamed_member(0, address, &before);
        fleet.catalogue.set_host(0, vec![renamed.clone()]);
        drop(before);
        fleet.queue.slots_changed();
        let standing = renamed.outliers.standing(&failing, Instant::now());
        assert_eq!(standing, Standing::Avoided, "it is the same server");
        let mut next = enter();
        assert!(futures_util::poll!(&mut next).is_pending());
        assert_eq!(renamed.in_flight(), 1);
        drop(held);
        let next = next.await.unwrap();
        assert!(Arc::ptr_eq(next.slot().member(), &renamed));
        let name = |policy: &mut policy::Policy| policy.name(renamed.id).cloned();
        let shown = fleet.router.change(name);
        assert_eq!(shown.as_ref(), Some(renamed.backend.name()));
    }
}
