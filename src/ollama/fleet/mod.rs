//! The fleet: which backends there are, what each of them has, and who is asked next.
//!
//! One supervised task a backend probes it; requests only read what the tasks have found. The
//! choice itself is a short critical section, so that two requests never see the same free place.

mod backend;
mod catalogue;
mod config;
mod dispatch;
mod picker;
mod resting;
mod slot;
mod watch;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::response;
use llamatower_layers::breaker::{Breaker, State};
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::queue::{Arrival, Entry, Queue};
use llamatower_layers::retry::Attempts;
use llamatower_layers::route::{Choice, Choose};
use llamatower_layers::{BoxError, LlmRequest, Record, RouteMatch};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout_at};

pub use backend::{Backend, Installed, Unreachable};
pub use config::{FleetConfig, ProbeClocks, QueueRules, Share};
pub use dispatch::{BackendSlot, Class, Dispatcher};
pub use resting::BackendsResting;
pub use slot::Slot;
pub use watch::{WatchLayer, Watched};

use crate::client::Client;
use catalogue::Catalogue;
use picker::Picker;

/// A backend that is down is probed as often as this, so that it is missed no longer than needed.
const PAUSE_WHILE_DOWN: Duration = Duration::from_secs(1);

/// All backends, a service for each, and the queue before them.
#[derive(Debug)]
pub struct Fleet<S> {
    backends: Vec<Arc<Backend>>,
    services: Vec<S>,
    breakers: Vec<Breaker>,
    catalogue: Arc<Catalogue>,
    picker: Arc<Picker>,
    queue: Queue<Dispatcher>,
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
    /// A fleet of `backends`, each asked through the service that `service_of` makes for it and
    /// judged by the breaker that this is given.
    pub fn new(
        backends: Vec<Backend>,
        config: FleetConfig,
        mut service_of: impl FnMut(&Arc<Backend>, &Breaker) -> S,
    ) -> Self {
        let backends: Vec<_> = backends.into_iter().map(Arc::new).collect();
        let breakers: Vec<_> = backends
            .iter()
            .map(|backend| breaker(backend, &config))
            .collect();
        let slots = (0..backends.len()).map(|index| config.slots.get(index).copied().flatten());
        let picker = Arc::new(Picker::new(slots.collect()));
        let catalogue = Arc::new(Catalogue::new(backends.len()));
        let queue = config.queue.queue(Dispatcher {
            backends: backends.clone(),
            breakers: breakers.clone(),
            catalogue: catalogue.clone(),
            picker: picker.clone(),
        });
        let members = backends.iter().zip(&breakers);
        Self {
            services: members
                .map(|(backend, breaker)| service_of(backend, breaker))
                .collect(),
            backends,
            breakers,
            catalogue,
            picker,
            queue,
            config,
        }
    }

    /// All backends, in the order of the configuration.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// What an operator sees.
    pub fn status(&self) -> Vec<BackendStatus> {
        let in_flight = self.picker.in_flight();
        let rows = self.backends.iter().enumerate();
        rows.map(|(index, backend)| BackendStatus {
            name: backend.name().clone(),
            is_up: backend.is_up(),
            in_flight: in_flight[index],
            slots: self.picker.slots()[index],
            breaker: self.breakers[index].state(),
        })
        .collect()
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
        ModelName::parse(model).is_ok_and(|name| !self.catalogue.holders(&name).is_empty())
    }

    /// What the model of a request is, whatever its name, if all backends that have it agree.
    pub fn version_of(&self, request: &Parts) -> Option<Arc<str>> {
        self.catalogue.digest(&model_of(request)?)
    }

    /// Asks all backends for what they hold, now rather than when their turn comes.
    pub fn refresh(&self) {
        self.catalogue.ask_for_refresh();
    }

    /// Probes all backends until `stop` turns true.
    pub async fn keep_watch(&self, stop: Receiver<bool>) {
        let watches = self.backends.iter().enumerate();
        let watches = watches.map(|(index, backend)| self.watch_one(index, backend, stop.clone()));
        futures_util::future::join_all(watches).await;
    }

    async fn watch_one(&self, index: usize, backend: &Backend, mut stop: Receiver<bool>) {
        loop {
            let asked = self.catalogue.refreshes_asked();
            let was_up = backend.is_up();
            let found = backend.probe(self.config.clocks.timeout).await;
            self.catalogue.note_probe(index, found, asked);
            if backend.is_up() && !was_up {
                self.breakers[index].half_open();
            }
            self.queue.slots_changed();
            let pause = match backend.is_up() {
                true => self.config.clocks.interval,
                false => self.config.clocks.interval.min(PAUSE_WHILE_DOWN),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.catalogue.refresh_asked_after(asked) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// The service of one backend and a place there, for calls that go to a certain backend: they
    /// do not wait and need no slot.
    pub fn take(&self, index: usize, request: &Parts) -> Choice<S, Slot>
    where
        S: Clone,
    {
        self.note_choice(index, request);
        Choice {
            service: self.services[index].clone(),
            slot: Slot::unqueued(self.picker.take(index)),
        }
    }

    /// The backends that have a model in memory, by what they say now.
    pub async fn having_loaded(&self, model: &ModelName) -> Vec<usize> {
        let asked = self.backends.iter().map(|backend| async {
            let loaded = backend.loaded_models(self.config.clocks.timeout).await;
            loaded.is_ok_and(|names| names.contains(model))
        });
        let found = futures_util::future::join_all(asked).await;
        let having = found.into_iter().enumerate();
        having
            .filter_map(|(index, has)| has.then_some(index))
            .collect()
    }

    /// How long one answer to a question of the gateway's own may take.
    pub fn probe_timeout(&self) -> Duration {
        self.config.clocks.timeout
    }

    /// Waits for the catalogue to have heard of a model that it does not know: until every
    /// backend was probed once, or was asked again.
    async fn look_for(&self, model: &ModelName) {
        let patience = Instant::now() + self.config.clocks.timeout;
        let _ = timeout_at(patience, self.catalogue.probed_once()).await;
        if self.catalogue.holders(model).is_empty() {
            let _ = timeout_at(patience, self.catalogue.refreshed()).await;
        }
    }

    /// What a request says of itself when it enters the queue.
    fn entry(&self, request: &Parts) -> Entry<Option<Client>, Option<Attempts>> {
        let client = Client::of(request);
        let share = self.config.share_of(client.as_ref());
        let attempts = request.extensions.get::<Attempts>().cloned();
        let entry = Entry::new(client, attempts)
            .with_cost(expected_tokens(request))
            .with_weight(share.weight)
            .with_priority(share.priority);
        match Arrival::of(&request.extensions) {
            Some(arrival) => entry.with_arrival(arrival),
            None => entry,
        }
    }

    fn note_choice(&self, index: usize, request: &Parts) {
        let name = self.backends[index].name();
        if let Some(attempts) = request.extensions.get::<Attempts>() {
            attempts.note_backend(name.clone());
        }
        Record::update_in(&request.extensions, |outcome| {
            outcome.backend = Some(name.clone());
            outcome.attempts += 1;
        });
    }
}

impl<S> Choose for Fleet<S>
where
    S: Clone + Send + Sync,
{
    type Service = S;
    type Slot = Slot;

    async fn choose(&self, request: &mut Parts) -> Result<Choice<S, Slot>, BoxError> {
        let class = class_of(request);
        if let Some(model) = &class.model
            && self.catalogue.holders(model).is_empty()
        {
            self.look_for(model).await;
        }
        let entered = Instant::now();
        let ticket = self.queue.enter(class, self.entry(request))?;
        let has_waited = ticket.watch().is_some();
        let permit = ticket.await?;
        if has_waited {
            let wait = entered.elapsed();
            Record::update_in(&request.extensions, |outcome| {
                outcome.queued = Some(outcome.queued.unwrap_or_default() + wait);
            });
        }
        let index = permit.slot().index();
        if let Some(token) = permit.slot().take_token() {
            Breaker::put_token(&mut request.extensions, token);
        }
        self.note_choice(index, request);
        if let Some(attempts) = request.extensions.get::<Attempts>() {
            attempts.note_left(permit.slot().left);
        }
        Ok(Choice {
            service: self.services[index].clone(),
            slot: Slot::queued(permit),
        })
    }

    fn answered(&self, slot: &mut Slot, answer: &response::Parts) {
        slot.answered(&answer.extensions);
    }
}

fn breaker(backend: &Arc<Backend>, config: &FleetConfig) -> Breaker {
    let name = backend.name().clone();
    Breaker::new(config.breaker).with_hook(move |from, to| {
        tracing::warn!(backend = %name, from = from.name(), to = to.name(), "the breaker");
    })
}

fn class_of(request: &Parts) -> Class {
    let route = RouteMatch::of(&request.extensions).and_then(RouteMatch::operation);
    Class {
        model: model_of(request),
        runs_model: route.is_some_and(|operation| operation.is_inference()),
    }
}

/// About how many tokens a request costs, before it is known: those of its text, and some for its
/// answer.
fn expected_tokens(request: &Parts) -> u32 {
    let bytes = request.extensions.get::<LlmRequest>();
    let bytes = bytes.map_or(0, |request| request.body_bytes);
    u32::try_from(bytes / 4).unwrap_or(u32::MAX).min(4096) + 256
}

/// The model that a request names in its body, or in its path.
fn model_of(request: &Parts) -> Option<ModelName> {
    let extensions = &request.extensions;
    let in_body = extensions
        .get::<LlmRequest>()
        .and_then(|request| request.model.as_deref());
    let in_path = || match RouteMatch::of(extensions) {
        Some(RouteMatch::Found { parameter, .. }) => parameter.as_deref(),
        _ => None,
    };
    ModelName::parse(in_body.or_else(in_path)?).ok()
}
