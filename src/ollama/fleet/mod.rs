//! The fleet: which backends there are, what each of them has, and who is asked next.
//!
//! One supervisor resolves the hosts and probes the backends; requests only read what it has found.
//! The choice itself is a short critical section, so that two requests never see the same free slot.

mod backend;
mod catalogue;
mod config;
mod dispatch;
mod member;
mod permit;
mod resolve;
mod supervise;

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use llamatower_layers::breaker::{Breaker, State};
use llamatower_layers::heartbeat::Waiting;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::queue::{self, Entry, Queue, Standing, Ticket};
use llamatower_layers::retry::Attempts;
use llamatower_layers::route::{Choice, ChoiceOf, Choose};
use llamatower_layers::{LlmRequest, Record, RouteMatch};
use tokio::time::{Instant, timeout_at};

pub use backend::{Backend, Installed, Unreachable};
pub use config::{Dns, FleetConfig, ProbeClocks, QueueRules, Share};
pub use dispatch::{Class, Dispatcher};
pub use member::Slot;
pub use permit::Permit;

use crate::client::Client;
use crate::ollama::upstream::Address;
use catalogue::Catalogue;
use member::Member;
use resolve::Resolver;

type MakeService<S> = dyn Fn(&Arc<Backend>, &Breaker) -> S + Send + Sync;

/// All backends, a service for each, and the queue before them.
pub struct Fleet<S> {
    hosts: Vec<Address>,
    resolver: Resolver,
    make_service: Box<MakeService<S>>,
    catalogue: Arc<Catalogue<S>>,
    queue: Queue<Dispatcher<S>>,
    config: FleetConfig,
}

/// What an operator sees of one backend.
#[derive(Clone, Debug)]
pub struct BackendStatus {
    /// Its name: host and port.
    pub name: Arc<str>,
    /// Whether it answered the last probe.
    pub is_up: bool,
    /// How many requests it works on for this gateway.
    pub in_flight: usize,
    /// How many requests for one model it is sent at a time, if that is bounded.
    pub slots: Option<NonZeroUsize>,
    /// How its breaker stands.
    pub breaker: State,
}

/// What an operator sees of the requests that wait for one model.
#[derive(Clone, Debug)]
pub struct QueueStatus {
    /// The model.
    pub model: Arc<str>,
    /// How many requests wait.
    pub waiting: usize,
    /// How many are served.
    pub in_flight: usize,
    /// How long the one has waited that has waited longest.
    pub oldest: Option<Duration>,
    /// How long one more would wait, by the service times of late.
    pub predicted_wait: Option<Duration>,
}

impl<S> Fleet<S> {
    /// A fleet of the backends at `hosts`, each asked through the service that `make_service`
    /// makes for it and judged by the breaker that this is given. A name stands for all of its
    /// addresses, a backend for each, once it is [watched](Self::keep_watch).
    pub fn new(
        hosts: Vec<Address>,
        config: FleetConfig,
        make_service: impl Fn(&Arc<Backend>, &Breaker) -> S + Send + Sync + 'static,
    ) -> Self {
        let make_service: Box<MakeService<S>> = Box::new(make_service);
        let members = hosts.iter().enumerate().map(|(host, address)| {
            let backend = Backend::new(address.clone(), config.clocks.connect, &config.access);
            let member = new_member(host, backend, &config, &*make_service);
            vec![Arc::new(member)]
        });
        let catalogue = Arc::new(Catalogue::new(members.collect()));
        Self {
            queue: config.queue.queue(Dispatcher::new(catalogue.clone())),
            resolver: Resolver::new(&config.dns),
            hosts,
            make_service,
            catalogue,
            config,
        }
    }

    /// A backend that has just been found at one of the hosts.
    fn unproven_member(&self, host: usize, address: Address) -> Arc<Member<S>> {
        let backend = Backend::unproven(address, self.config.clocks.connect, &self.config.access);
        let member = new_member(host, backend, &self.config, &*self.make_service);
        Arc::new(member)
    }

    /// All backends now, in the order of the configuration.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        let members = self.catalogue.members();
        let all = members.all().iter();
        all.map(|member| member.backend.clone()).collect()
    }

    /// What an operator sees.
    pub fn status(&self) -> Vec<BackendStatus> {
        let members = self.catalogue.members();
        let rows = members.all().iter().map(|member| BackendStatus {
            name: member.backend.name().clone(),
            is_up: member.backend.is_up(),
            in_flight: member.in_flight(),
            slots: member.slots,
            breaker: member.breaker.state(),
        });
        rows.collect()
    }

    /// What an operator sees of the queue: the models for which requests wait or are served.
    pub fn queue_status(&self) -> Vec<QueueStatus> {
        let rows = self.queue.snapshot().into_iter().filter_map(|row| {
            let model = row.class.model.filter(|_| row.class.runs_model)?;
            (row.waiting > 0 || row.in_flight > 0).then(|| QueueStatus {
                model: model.to_string().into(),
                waiting: row.waiting,
                in_flight: row.in_flight,
                oldest: row.oldest,
                predicted_wait: row.predicted_wait,
            })
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|one, other| one.model.cmp(&other.model));
        rows
    }

    /// Whether some backend has a model of this name, as the client wrote it.
    pub fn knows(&self, model: &str) -> bool {
        let members = self.catalogue.members();
        let name = members.name(model);
        name.is_some_and(|name| !members.holders(&name).is_empty())
    }

    /// Whether some backend has a model, by what all say now if none was known to.
    pub async fn has(&self, model: ModelName) -> bool {
        let is_known = |model: &ModelName| !self.catalogue.members().holders(model).is_empty();
        if is_known(&model) {
            return true;
        }
        self.look_for(model.clone()).await;
        is_known(&model)
    }

    /// What the model of a request is, whatever its name, if all backends that have it agree.
    pub fn version_of(&self, request: &Parts) -> Option<Arc<str>> {
        let members = self.catalogue.members();
        members.digest(&members.name(model_of(request)?)?)
    }

    /// Asks all backends for what they hold, now rather than when their turn comes.
    pub fn refresh(&self) {
        self.catalogue.ask_for_refresh();
    }

    /// The service of one backend and a slot there, for calls that go to a certain one: they do
    /// not wait, whether a slot is free or not.
    fn take(&self, member: &Arc<Member<S>>, request: &Parts) -> Choice<S, Permit<S>>
    where
        S: Clone,
    {
        note_choice(&member.backend, request);
        Choice {
            service: member.service.clone(),
            slot: Permit::unqueued(member.take(None)),
        }
    }

    /// The service of the backend that the queue has given a slot of.
    fn chosen(
        &self,
        permit: queue::Permit<Dispatcher<S>>,
        request: &mut Parts,
    ) -> Choice<S, Box<Permit<S>>>
    where
        S: Clone,
    {
        let slot = permit.slot();
        let member = slot.member();
        if let Some(token) = slot.take_token() {
            Breaker::put_token(&mut request.extensions, token);
        }
        note_choice(&member.backend, request);
        if let Some(attempts) = Attempts::of(&request.extensions) {
            attempts.note_left(slot.left);
        }
        let record = Record::of(&request.extensions).cloned();
        Choice {
            service: member.service.clone(),
            slot: Box::new(Permit::queued(permit, record)),
        }
    }

    /// The first backend of a host of the configuration.
    pub fn take_at(&self, host: usize, request: &Parts) -> Option<Choice<S, Permit<S>>>
    where
        S: Clone,
    {
        let members = self.catalogue.members();
        let first = members.of_host(host).first();
        first.map(|member| self.take(member, request))
    }

    /// The backends that have a model in memory, by what they say now.
    pub async fn take_those_with(
        &self,
        model: &ModelName,
        request: &Parts,
    ) -> Vec<Choice<S, Permit<S>>>
    where
        S: Clone,
    {
        let members = self.catalogue.members().all().to_vec();
        let asked = members.iter().map(|member| async {
            let loaded = member.backend.loaded_models(self.config.clocks.timeout);
            loaded.await.is_ok_and(|names| names.contains(model))
        });
        let found = futures_util::future::join_all(asked).await;
        let having = members.iter().zip(found).filter(|(_, has)| *has);
        having
            .map(|(member, _)| self.take(member, request))
            .collect()
    }

    /// Waits until every backend has been probed once, by those who [watch](Self::keep_watch).
    pub async fn probed_once(&self) {
        self.catalogue.probed_once().await;
    }

    /// How long one answer to a question of the gateway's own may take.
    pub fn probe_timeout(&self) -> Duration {
        self.config.clocks.timeout
    }

    /// Waits for the catalogue to have heard of a model that it does not know: until every
    /// backend was probed once, or was asked again.
    fn look_for(&self, model: ModelName) -> impl Future<Output = ()> + use<S> {
        let (catalogue, patience) = (self.catalogue.clone(), self.config.clocks.timeout);
        async move {
            let patience = Instant::now() + patience;
            let _ = timeout_at(patience, catalogue.probed_once()).await;
            if catalogue.members().holders(&model).is_empty() {
                let _ = timeout_at(patience, catalogue.refreshed()).await;
            }
        }
    }

    /// In which line of the queue a request waits, and whether a backend has its model.
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

    /// What a request says of itself when it enters the queue.
    fn entry(&self, request: &Parts) -> Entry<Option<Client>, Option<Attempts>> {
        let client = Client::of(request);
        let share = self.config.share_of(client.as_ref());
        let attempts = Attempts::of(&request.extensions).cloned();
        let arrival = attempts.as_ref().map(Attempts::started);
        let entry = Entry::new(client, attempts)
            .with_cost(expected_tokens(request))
            .with_weight(share.weight)
            .with_priority(share.priority);
        match arrival {
            Some(arrival) => entry.with_arrival(arrival),
            None => entry,
        }
    }
}

/// What a request waits for before a backend is asked. Most wait for nothing.
#[derive(Default)]
pub enum Wait<S> {
    /// It has not begun.
    #[default]
    Begun,
    /// For the catalogue to have heard of its model.
    Model(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// For a slot, since it entered the queue.
    Slot(Box<Ticket<Dispatcher<S>>>, Instant),
}

impl<S> Choose for Fleet<S>
where
    S: Clone + Send + Sync + 'static,
{
    type Service = S;
    type Slot = Box<Permit<S>>;
    type Wait = Wait<S>;

    fn poll_choose(
        &self,
        wait: &mut Wait<S>,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>> {
        let class = match wait {
            Wait::Begun => {
                let (class, is_known) = self.class_of(request);
                if let Some(model) = class.model.as_ref().filter(|_| !is_known) {
                    *wait = Wait::Model(Box::pin(self.look_for(model.clone())));
                    return self.poll_choose(wait, request, cx);
                }
                class
            }
            Wait::Model(known) => {
                ready!(known.as_mut().poll(cx));
                self.class_of(request).0
            }
            Wait::Slot(ticket, since) => {
                let permit = ready!(Pin::new(ticket).poll(cx))?;
                note_wait(request, since.elapsed());
                return Poll::Ready(Ok(self.chosen(permit, request)));
            }
        };
        let mut ticket = self.queue.enter(class, self.entry(request))?;
        match Pin::new(&mut ticket).poll(cx) {
            Poll::Ready(permit) => Poll::Ready(Ok(self.chosen(permit?, request))),
            Poll::Pending => {
                tell_place(request, &ticket);
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
) -> Member<S> {
    let backend = Arc::new(backend);
    let breaker = breaker(&backend, config);
    let service = make_service(&backend, &breaker);
    let slots = config.slots.get(host).copied().flatten();
    Member::new(backend, breaker, service, slots)
}

fn note_choice(backend: &Backend, request: &Parts) {
    let name = backend.name();
    if let Some(attempts) = Attempts::of(&request.extensions) {
        attempts.note_backend(name.clone());
    }
    Record::update_in(&request.extensions, |outcome| {
        outcome.backend = Some(name.clone());
        outcome.attempts += 1;
    });
}

/// Lets signs of life, if the request has any, say where it stands in the queue.
fn tell_place<S>(request: &Parts, ticket: &Ticket<Dispatcher<S>>)
where
    S: Clone + Send + Sync + 'static,
{
    let waiting = Waiting::of(&request.extensions);
    if let Some((waiting, watch)) = waiting.zip(ticket.watch()) {
        waiting.tell(move || watch.standing().map(place));
    }
}

fn place(standing: Standing) -> String {
    let ahead = standing.ahead;
    let place = format!("waiting in the queue, requests before this one: {ahead}");
    match standing.expected_wait {
        Some(wait) => format!("{place}, expected wait: {} s", wait.as_secs_f64().ceil()),
        None => place,
    }
}

fn note_wait(request: &Parts, wait: Duration) {
    Record::update_in(&request.extensions, |outcome| {
        outcome.queued = Some(outcome.queued.unwrap_or_default() + wait);
    });
}

fn breaker(backend: &Arc<Backend>, config: &FleetConfig) -> Breaker {
    let name = backend.name().clone();
    Breaker::new(config.breaker).with_hook(move |from, to| {
        tracing::warn!(backend = %name, from = from.name(), to = to.name(), "the breaker");
    })
}

/// About how many tokens a request costs, before it is known: those of its text, and some for its
/// answer.
fn expected_tokens(request: &Parts) -> u32 {
    let bytes = LlmRequest::of(&request.extensions);
    let bytes = bytes.map_or(0, |request| request.body_bytes);
    u32::try_from(bytes / 4).unwrap_or(u32::MAX).min(4096) + 256
}

/// The model that a request names in its body, or in its path, as the client wrote it.
fn model_of(request: &Parts) -> Option<&str> {
    let extensions = &request.extensions;
    let in_body = LlmRequest::of(extensions).and_then(|request| request.model.as_deref());
    let in_path = || match RouteMatch::of(extensions) {
        Some(RouteMatch::Found { parameter, .. }) => parameter.as_deref(),
        _ => None,
    };
    in_body.or_else(in_path)
}
