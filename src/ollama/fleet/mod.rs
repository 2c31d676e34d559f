//! The fleet: which backends there are, what each of them has, and who is asked next.
//!
//! One supervised task a backend probes it; requests only read what the tasks have found. The
//! choice itself is a short critical section, so that two requests never see the same free place.

mod backend;
mod catalogue;
mod picker;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::retry::Attempts;
use llamatower_layers::route::{Choice, Choose};
use llamatower_layers::{BoxError, LlmRequest, Record, RouteMatch};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout_at};

pub use backend::{Backend, Unreachable};
pub use picker::Slot;
pub use watch::{WatchLayer, Watched};

use catalogue::Catalogue;
use picker::Picker;

/// How often and how patiently backends are probed.
#[derive(Clone, Copy, Debug)]
pub struct ProbeClocks {
    /// From the end of one probe to the beginning of the next.
    pub interval: Duration,
    /// How long one answer to a probe may take.
    pub timeout: Duration,
}

/// All backends, and a service for each.
#[derive(Debug)]
pub struct Fleet<S> {
    backends: Vec<Arc<Backend>>,
    services: Vec<S>,
    catalogue: Arc<Catalogue>,
    picker: Arc<Picker>,
    clocks: ProbeClocks,
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
}

impl<S> Fleet<S> {
    /// A fleet of `backends`, each asked through the service that `service_of` makes for it.
    pub fn new(
        backends: Vec<Backend>,
        clocks: ProbeClocks,
        service_of: impl FnMut(&Arc<Backend>) -> S,
    ) -> Self {
        let backends: Vec<_> = backends.into_iter().map(Arc::new).collect();
        Self {
            services: backends.iter().map(service_of).collect(),
            catalogue: Arc::new(Catalogue::new(backends.len())),
            picker: Arc::new(Picker::new(backends.len())),
            backends,
            clocks,
        }
    }

    /// All backends, in the order of the configuration.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// What an operator sees.
    pub fn status(&self) -> Vec<BackendStatus> {
        let in_flight = self.picker.in_flight();
        let rows = self.backends.iter().zip(in_flight);
        rows.map(|(backend, in_flight)| BackendStatus {
            name: backend.name().clone(),
            is_up: backend.is_up(),
            in_flight,
        })
        .collect()
    }

    /// Whether some backend has a model of this name, as the client wrote it.
    pub fn knows(&self, model: &str) -> bool {
        ModelName::parse(model).is_ok_and(|name| !self.catalogue.holders(&name).is_empty())
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
            let found = backend.probe(self.clocks.timeout).await;
            self.catalogue.note_probe(index, found, asked);
            tokio::select! {
                () = tokio::time::sleep(self.clocks.interval) => {}
                () = self.catalogue.refresh_asked_after(asked) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// The service of one backend and a slot there, for calls that go to a certain backend.
    pub fn take(&self, index: usize, request: &Parts) -> Choice<S, Slot>
    where
        S: Clone,
    {
        let slot = self.picker.take(index);
        self.note_choice(index, request);
        Choice {
            service: self.services[index].clone(),
            slot,
        }
    }

    /// The backends that have a model in memory, by what they say now.
    pub async fn having_loaded(&self, model: &ModelName) -> Vec<usize> {
        let asked = self.backends.iter().map(|backend| async {
            let loaded = backend.loaded_models(self.clocks.timeout).await;
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
        self.clocks.timeout
    }

    /// Who may be asked, the best kind first: who has the model and is up and was not asked yet;
    /// who has it and is up; who has it. A model that nobody has goes to whoever is up, whose
    /// own words for that are the right ones.
    fn candidates(&self, model: Option<&ModelName>, tried: &[Arc<str>]) -> Vec<usize> {
        let everybody = || (0..self.backends.len()).collect();
        let may_serve = match model.map(|name| self.catalogue.holders(name)) {
            Some(holders) if !holders.is_empty() => holders.to_vec(),
            _ => everybody(),
        };
        let is_up = |&index: &usize| self.backends[index].is_up();
        let is_new = |&index: &usize| !tried.contains(self.backends[index].name());
        let best = |keep: &dyn Fn(&usize) -> bool| -> Option<Vec<usize>> {
            let kept: Vec<_> = may_serve
                .iter()
                .copied()
                .filter(|index| keep(index))
                .collect();
            (!kept.is_empty()).then_some(kept)
        };
        best(&|index| is_up(index) && is_new(index))
            .or_else(|| best(&is_up))
            .or_else(|| best(&is_new))
            .unwrap_or(may_serve)
    }

    /// Waits for the catalogue to have heard of a model that it does not know: until every
    /// backend was probed once, or was asked again.
    async fn look_for(&self, model: &ModelName) {
        let patience = Instant::now() + self.clocks.timeout;
        let _ = timeout_at(patience, self.catalogue.probed_once()).await;
        if self.catalogue.holders(model).is_empty() {
            let _ = timeout_at(patience, self.catalogue.refreshed()).await;
        }
    }

    /// Tells a retry whether there is anybody else to ask.
    fn note_left(&self, candidates: &[usize], request: &Parts) {
        if let Some(attempts) = request.extensions.get::<Attempts>() {
            let tried = attempts.tried();
            let is_new = |&&index: &&usize| !tried.contains(self.backends[index].name());
            attempts.note_left(candidates.iter().filter(is_new).count());
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

    fn choose(
        &self,
        request: &Parts,
    ) -> impl Future<Output = Result<Choice<S, Slot>, BoxError>> + Send {
        let model = model_of(request);
        async move {
            if let Some(model) = &model
                && self.catalogue.holders(model).is_empty()
            {
                self.look_for(model).await;
            }
            let tried = request.extensions.get::<Attempts>().map(Attempts::tried);
            let candidates = self.candidates(model.as_ref(), &tried.unwrap_or_default());
            let (index, slot) = self.picker.pick(&candidates);
            self.note_choice(index, request);
            self.note_left(&candidates, request);
            Ok(Choice {
                service: self.services[index].clone(),
                slot,
            })
        }
    }
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
