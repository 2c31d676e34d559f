//! The fleet: the backends, their models, and the choice of a backend for each request.
//!
//! A supervisor resolves host names and probes the backends; requests only read its results. The
//! choice is a short critical section, so that two requests never take the same free slot.

mod backend;
mod catalogue;
mod config;
mod cordon;
mod dispatch;
mod drift;
pub(crate) mod estimates;
mod explain;
mod flight;
mod inventory;
mod known;
mod load_request;
mod managed;
mod member;
mod not_found;
mod observe;
pub(crate) mod outlier;
mod permit;
pub(crate) mod policy;
mod preload;
mod resolve;
mod router;
mod rules;
mod status;
mod supervise;
mod targets;
mod trial;

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use llamatower_layers::breaker::Breaker;
use llamatower_layers::heartbeat::Waiting;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::queue::{self, Entry, Queue, QueuePosition, Ticket};
use llamatower_layers::retry::Attempts;
use llamatower_layers::route::{Choice, ChoiceOf, Choose};
use llamatower_layers::{Dialect, Failure, LlmRequest, Operation, Record, RouteMatch};
use tokio::time::{Instant, timeout_at};

pub use backend::{Backend, Unreachable};
pub use config::{ContextRules, Dns, FleetConfig, ProbeClocks, QueueRules, Share, SlotRule};
pub use cordon::Cordoned;
pub use dispatch::{Class, Dispatcher, Need};
pub use drift::Drift;
pub use explain::LatestTerms;
pub use inventory::{Installed, Resident, short_digest};
pub use known::FleetModels;
pub use managed::Managed;
pub use member::Slot;
pub use not_found::ModelNotFound;
pub use observe::Observed;
pub use outlier::{Avoided, Reason};
pub use permit::Permit;
#[doc(hidden)]
pub use policy::ChoiceBench;
pub use policy::{Availability, Candidate, Decision, MemoryStatus, ModelStatus, Occupancy};
pub use policy::{ReportedLoad, Residency, SlotSource, SlotStatus, Terms};
pub use preload::{PreloadState, PreloadStatus};
pub use router::LoadObserver;
pub use rules::{AllowedModels, InvalidPattern, ModelPattern, Preload, ServerRules};
pub use status::{BackendStatus, QueueStatus};
pub use targets::{Chosen, Concern, Targets, UnusableTargets};

use crate::client::Client;
use crate::ollama::upstream::Address;
use catalogue::Catalogue;
use estimates::{Estimates, Expected};
use flight::Flight;
use member::Member;
use permit::Accounting;
use policy::ServerSpec;
use resolve::Resolver;
use router::Router;

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
            let member = new_member(host, backend, &config, &*make_service, &router);
            vec![Arc::new(member)]
        });
        let catalogue = Arc::new(Catalogue::new(members.collect()));
        Self {
            queue: config
                .queue
                .queue(Dispatcher::new(catalogue.clone(), router.clone())),
            estimates: Arc::default(),
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
        );
        Arc::new(member)
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
        record_choice(&member.backend, None, request);
        Choice {
            service: member.service.clone(),
            slot: Permit::unqueued(member.take(None)),
        }
    }

    /// The service of the backend whose slot the queue has assigned.
    fn chosen(
        &self,
        permit: queue::Permit<Dispatcher<S>>,
        request: &mut Parts,
    ) -> Choice<Observed<S>, Box<Permit<S>>>
    where
        S: Clone,
    {
        let slot = permit.slot();
        let member = slot.member();
        let service = Observed::new(member, slot.flight().cloned(), &self.queue);
        if let Some(token) = slot.take_token() {
            Breaker::put_token(&mut request.extensions, token);
        }
        if let Some(flight) = slot.flight() {
            self.log_choice(&member.backend, flight);
        }
        let terms = slot.flight().map(|flight| flight.grant().terms);
        record_choice(&member.backend, terms, request);
        self.put_num_ctx(slot.flight(), request);
        if slot.flight().is_some_and(Flight::may_load) {
            request.extensions.insert(MayLoad);
        }
        let rules = member.backend.rules();
        if slot
            .flight()
            .is_some_and(|flight| rules.is_pinned(flight.model()))
        {
            request.extensions.insert(KeepInMemory);
        }
        if let Some(attempts) = Attempts::of(&request.extensions) {
            attempts.record_untried(slot.left);
        }
        let accounting = Accounting {
            record: Record::of(&request.extensions).cloned(),
            body_bytes: body_bytes(request),
            estimates: self.estimates.clone(),
        };
        let permit = Permit::queued(permit, accounting);
        Choice {
            service,
            slot: Box::new(permit),
        }
    }

    /// Notes the `num_ctx` to send to the chosen backend, if it is not that of the request.
    fn put_num_ctx(&self, flight: Option<&Flight>, request: &mut Parts) {
        let Some(parsed) = LlmRequest::of(&request.extensions) else {
            return;
        };
        let num_ctx = match flight {
            Some(flight) => flight.num_ctx(),
            None => self.config.context.asked(parsed),
        };
        if num_ctx != parsed.num_ctx {
            request.extensions.insert(SentNumCtx(num_ctx));
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

    /// Waits until the catalogue can know a model: first until every backend was probed once, then
    /// until all were probed again.
    fn await_model(&self, model: ModelName) -> impl Future<Output = ()> + use<S> {
        let (catalogue, limit) = (self.catalogue.clone(), self.config.clocks.timeout);
        async move {
            let deadline = Instant::now() + limit;
            let _ = timeout_at(deadline, catalogue.probed_once()).await;
            if catalogue.members().holders(&model).is_empty() {
                let _ = timeout_at(deadline, catalogue.refreshed()).await;
            }
        }
    }

    /// Refuses a request for a model that no backend has, if a server that must not serve it could
    /// be asked otherwise.
    fn check_allowed(&self, class: &Class, request: &Parts) -> Result<(), Failure> {
        let members = self.catalogue.members();
        if let Some(cordoned) = members.only_cordoned(class.model.as_ref()) {
            return Err(cordoned.into());
        }
        let is_withheld = |model| members.is_withheld(model);
        if !class.model.as_ref().is_some_and(is_withheld) {
            return Ok(());
        }
        let model = model_of(request).unwrap_or_default();
        let embeds = LlmRequest::of(&request.extensions).is_some_and(|request| {
            request.dialect == Dialect::Ollama && request.operation == Operation::Embed
        });
        let missing = match embeds {
            true => ModelNotFound::to_embed(model),
            false => ModelNotFound::new(model),
        };
        Err(missing.into())
    }

    /// The queue's class of a request, and whether a backend has its model.
    fn class_of(&self, request: &Parts) -> (Class, bool) {
        let members = self.catalogue.members();
        let route = RouteMatch::of(&request.extensions).and_then(RouteMatch::operation);
        let model = model_of(request).and_then(|model| members.name(model));
        let is_known = |model| !members.holders(model).is_empty();
        let is_known = model.as_ref().is_some_and(is_known);
        let class = Class {
            model,
            runs_model: route.is_some_and(|operation| operation.is_inference()),
        };
        (class, is_known)
    }

    /// What a request needs of its backend.
    fn need(&self, expected: Expected, request: &Parts) -> Need {
        let parsed = LlmRequest::of(&request.extensions);
        Need {
            attempts: Attempts::of(&request.extensions).cloned(),
            prompt_tokens: expected.prompt_tokens,
            output_tokens: expected.output_tokens,
            num_ctx: parsed.and_then(|request| self.config.context.asked(request)),
            may_change_num_ctx: parsed
                .is_some_and(|request| self.config.context.may_change(request)),
            prefix: parsed
                .map(|request| request.prefix.clone())
                .unwrap_or_default(),
            streams: parsed.is_some_and(|request| request.stream),
        }
    }

    /// The queue entry of a request.
    fn entry(&self, class: &Class, request: &Parts) -> Entry<Option<Client>, Need> {
        let client = Client::of(request);
        let model = class.model.as_ref();
        let expected = self
            .estimates
            .expected(model, client.as_ref(), body_bytes(request));
        let share = self.config.share_of(client.as_ref());
        let need = self.need(expected, request);
        let arrival = need.attempts.as_ref().map(Attempts::started);
        let is_identified = client.as_ref().is_some_and(Client::is_identified);
        let entry = Entry::new(client, need)
            .with_shared_key(!is_identified)
            .with_cost(expected.cost())
            .with_weight(share.weight)
            .with_priority(share.priority);
        match arrival {
            Some(arrival) => entry.with_arrival(arrival),
            None => entry,
        }
    }
}

/// What a request waits for before a backend is chosen. Most requests do not wait.
#[derive(Default)]
pub enum Wait<S> {
    /// Not polled yet.
    #[default]
    Start,
    /// The catalogue is looking for the model.
    Model(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// The request is in the queue for a slot, since this time.
    Slot(Box<Ticket<Dispatcher<S>>>, Instant),
}

impl<S> Choose for Fleet<S>
where
    S: Clone + Send + Sync + 'static,
{
    type Service = Observed<S>;
    type Slot = Box<Permit<S>>;
    type Wait = Wait<S>;

    fn poll_choose(
        &self,
        wait: &mut Wait<S>,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>> {
        let class = match wait {
            Wait::Start => {
                let (class, is_known) = self.class_of(request);
                if let Some(model) = class.model.as_ref().filter(|_| !is_known) {
                    *wait = Wait::Model(Box::pin(self.await_model(model.clone())));
                    return self.poll_choose(wait, request, cx);
                }
                class
            }
            Wait::Model(known) => {
                ready!(known.as_mut().poll(cx));
                let (class, is_known) = self.class_of(request);
                if !is_known {
                    self.check_allowed(&class, request)?;
                }
                class
            }
            Wait::Slot(ticket, since) => {
                let permit = ready!(Pin::new(ticket).poll(cx))?;
                record_wait(request, since.elapsed());
                return Poll::Ready(Ok(self.chosen(permit, request)));
            }
        };
        let entry = self.entry(&class, request);
        let mut ticket = self.queue.enter(class, entry)?;
        match Pin::new(&mut ticket).poll(cx) {
            Poll::Ready(permit) => Poll::Ready(Ok(self.chosen(permit?, request))),
            Poll::Pending => {
                report_queue_place(request, &ticket);
                *wait = Wait::Slot(Box::new(ticket), Instant::now());
                Poll::Pending
            }
        }
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

fn new_member<S>(
    host: usize,
    backend: Backend,
    config: &FleetConfig,
    make_service: &MakeService<S>,
    router: &Router,
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
    let id = router.change(|policy| policy.add_server(spec));
    let backend = Arc::new(backend.with_rules(rules));
    let breaker = breaker(&backend, config);
    let service = make_service(&backend, &breaker);
    Member::new(backend, breaker, service, slots, id, router.clone())
}

fn record_choice(backend: &Backend, terms: Option<Terms>, request: &Parts) {
    let name = backend.name();
    if let Some(attempts) = Attempts::of(&request.extensions) {
        attempts.record_backend(name.clone());
    }
    Record::update_in(&request.extensions, |outcome| {
        outcome.backend = Some(name.clone());
        outcome.attempts += 1;
        if let Some(latest) = outcome.extensions.get_mut::<LatestTerms>() {
            latest.0 = terms;
        }
    });
}

/// Puts the place in the queue into the heartbeat's text, if the request has one.
fn report_queue_place<S>(request: &Parts, ticket: &Ticket<Dispatcher<S>>)
where
    S: Clone + Send + Sync + 'static,
{
    let waiting = Waiting::of(&request.extensions);
    if let Some((waiting, watch)) = waiting.zip(ticket.watch()) {
        waiting.set_description(move || watch.queue_position().map(queue_place_text));
    }
}

fn queue_place_text(queue_position: QueuePosition) -> String {
    let ahead = queue_position.ahead;
    let place = format!("waiting in the queue, requests before this one: {ahead}");
    match queue_position.expected_wait {
        Some(wait) => format!("{place}, expected wait: {} s", wait.as_secs_f64().ceil()),
        None => place,
    }
}

fn record_wait(request: &Parts, wait: Duration) {
    Record::update_in(&request.extensions, |outcome| {
        outcome.queued = Some(outcome.queued.unwrap_or_default() + wait);
    });
}

fn breaker(backend: &Arc<Backend>, config: &FleetConfig) -> Breaker {
    let name = backend.name().clone();
    Breaker::new(config.breaker).with_hook(move |from, to| {
        tracing::warn!(backend = %name, from = from.name(), to = to.name(), "the circuit breaker changed state");
    })
}

/// The length of the request's body, if it was scanned; else 0.
fn body_bytes(request: &Parts) -> u64 {
    LlmRequest::of(&request.extensions).map_or(0, |request| request.body_bytes)
}

/// The model name in the body or the path, as written by the client.
fn model_of(request: &Parts) -> Option<&str> {
    let extensions = &request.extensions;
    let in_body = LlmRequest::of(extensions).and_then(|request| request.model.as_deref());
    let in_path = || match RouteMatch::of(extensions) {
        Some(RouteMatch::Found { parameter, .. }) => parameter.as_deref(),
        _ => None,
    };
    in_body.or_else(in_path)
}
