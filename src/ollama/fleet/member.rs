//! One backend of the fleet, with its own state.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use llamatower_layers::ModelName;
use llamatower_layers::breaker::{Breaker, Token};
use llamatower_layers::queue::Line;
use tokio::time::Instant;

use super::backend::Backend;
use super::config::SlotRule;
use super::flight::Flight;
use super::inventory::{Installed, Residency, Resident};
use super::outlier::Outliers;
use super::policy::{InMemory, ServerId, ServerSpec};
use super::preload::Preloads;
use super::router::Router;
use crate::reuse::Reuse;

/// A backend, its service and its load. It lives as long as a request holds a [`Slot`] of it, even
/// after it has left the fleet.
#[derive(Debug)]
pub(super) struct Member<S> {
    pub(super) backend: Arc<Backend>,
    pub(super) breaker: Breaker,
    pub(super) service: Reuse<S>,
    /// How many requests for one model may be in flight.
    pub(super) slots: SlotRule,
    /// Its index in the policy.
    pub(super) id: ServerId,
    router: Router,
    pub(super) entry: Arc<PolicyEntry>,
    /// What the backend did lately with each model.
    pub(super) outliers: Arc<Outliers>,
    in_flight: Arc<AtomicUsize>,
    models: Mutex<Arc<[Installed]>>,
    pub(super) residency: Residency,
    pub(super) preloads: Preloads,
    /// One more than the number of the last refresh that a probe has answered; 0 before the first
    /// probe.
    probed: AtomicU64,
}

/// A server in the policy. It is removed after its last member: a server that gets another name has
/// two of them while requests are in flight at the first one.
#[derive(Debug)]
pub(super) struct PolicyEntry {
    id: ServerId,
    router: Router,
}

impl PolicyEntry {
    /// Adds a server.
    pub(super) fn new(spec: ServerSpec, router: &Router) -> Arc<Self> {
        let id = router.change(|policy| policy.add_server(spec));
        let router = router.clone();
        Arc::new(Self { id, router })
    }
}

impl Drop for PolicyEntry {
    fn drop(&mut self) {
        self.router.change(|policy| policy.remove_server(self.id));
    }
}

/// A slot of a backend, and the permission to send a request there. Dropping it releases the slot.
#[derive(Debug)]
pub struct Slot<S> {
    member: Arc<Member<S>>,
    /// The model that the request runs; `None` if it runs none.
    flight: Option<Flight>,
    /// The request is a trial; see [`Outliers`].
    is_trial: bool,
    token: Mutex<Option<Token>>,
    /// The number of other backends that were not tried yet.
    pub(super) left: usize,
    /// The place of the request in the queue when it got the slot.
    pub(super) line: Option<Line>,
}

impl<S> Member<S> {
    pub(super) fn new(
        backend: Arc<Backend>,
        breaker: Breaker,
        service: S,
        slots: SlotRule,
        entry: Arc<PolicyEntry>,
    ) -> Self {
        Self {
            backend,
            breaker,
            service: Reuse::new(service),
            slots,
            id: entry.id,
            router: entry.router.clone(),
            entry,
            outliers: Arc::default(),
            in_flight: Arc::default(),
            models: Mutex::new(Arc::from([])),
            residency: Residency::default(),
            preloads: Preloads::default(),
            probed: AtomicU64::new(0),
        }
    }

    /// This member, whose entry is that of `before`, in its place: it is the same server with another
    /// name. The requests in progress count, and what was learned stays.
    pub(super) fn in_place_of(mut self, before: &Self) -> Self {
        self.outliers = before.outliers.clone();
        self.in_flight = before.in_flight.clone();
        self.set_models(before.models().to_vec());
        let name = self.backend.name().clone();
        self.router
            .change(|policy| policy.rename_server(self.id, name));
        self
    }

    /// The number of requests in progress.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A slot for a request; `flight` is its place in the policy, if it runs a model.
    pub(super) fn take(self: &Arc<Self>, flight: Option<Flight>) -> Slot<S> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Slot {
            member: self.clone(),
            flight,
            is_trial: false,
            token: Mutex::default(),
            left: 0,
            line: None,
        }
    }

    /// The known models of the backend.
    pub(super) fn models(&self) -> Arc<[Installed]> {
        lock(&self.models).clone()
    }

    /// The models in the backend's memory, as last read; `None` if they are not known: it was not
    /// asked yet, is down, or has no such list. A model that a request has just loaded is missing
    /// until the next read.
    pub(super) fn resident(&self) -> Option<Arc<[Resident]>> {
        self.residency.get()
    }

    /// Asks for [`resident`](Self::resident) to be read again now, for example after a request has
    /// loaded a model. This does not block; at most one read of a backend is in progress.
    pub(super) fn refresh_resident(&self) {
        self.residency.ask();
    }

    /// Sets the models; returns whether they have changed.
    pub(super) fn set_models(&self, models: Vec<Installed>) -> bool {
        let mut known = lock(&self.models);
        let is_new = **known != *models;
        if is_new {
            *known = models.into();
        }
        is_new
    }

    /// The policy of the fleet.
    #[cfg(test)]
    pub(super) fn router(&self) -> &Router {
        &self.router
    }

    /// Tells the policy which models the backend may run.
    pub(super) fn tell_installed(&self) {
        let models = self.models();
        let rows: Vec<_> = models
            .iter()
            .filter(|model| self.backend.allows(&model.name))
            .map(|model| (model.name.clone(), model.size))
            .collect();
        self.router
            .change(|policy| policy.set_installed(self.id, &rows));
    }

    /// Tells the policy which models the backend has listed as in memory; it was asked at this
    /// time.
    pub(super) fn tell_residents(&self, listed: Option<&[Resident]>, asked: Instant) {
        let (now, wall) = (Instant::now(), Timestamp::now());
        let expires = |at: Timestamp| now.checked_add(at.duration_since(wall).try_into().ok()?);
        let rows = listed.map(|listed| {
            let rows = listed.iter().map(|resident| InMemory {
                model: resident.name.clone(),
                bytes: resident.size,
                context: resident.context_length,
                expires: resident.expires_at.and_then(expires),
            });
            rows.collect::<Vec<_>>()
        });
        self.router
            .change(|policy| policy.set_residents(self.id, rows.as_deref(), asked, now));
    }

    /// Whether another backend has the model.
    pub(super) fn is_held_elsewhere(&self, model: &ModelName) -> bool {
        self.router
            .change(|policy| policy.is_held_elsewhere(model, self.id))
    }

    /// Tells the policy that the backend is down.
    pub(super) fn note_down(&self) {
        self.router
            .change(|policy| policy.restarted(self.id, Instant::now()));
    }

    /// Records a finished probe that began after this refresh was requested.
    pub(super) fn note_probed(&self, refresh: u64) {
        self.probed.fetch_max(refresh + 1, Ordering::Relaxed);
    }

    /// Whether the backend was probed at all.
    pub(super) fn was_probed(&self) -> bool {
        self.probed.load(Ordering::Relaxed) > 0
    }

    /// Whether it is down by its probes. One that was not probed yet may be up.
    pub(super) fn is_known_down(&self) -> bool {
        self.was_probed() && !self.backend.is_up()
    }

    /// Whether the backend was probed after this refresh was requested.
    pub(super) fn was_refreshed(&self, refresh: u64) -> bool {
        self.probed.load(Ordering::Relaxed) > refresh
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Slot<S> {
    /// The backend of the slot.
    pub(super) fn member(&self) -> &Arc<Member<S>> {
        &self.member
    }

    /// The request's place in the policy, if it runs a model.
    pub(super) fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    /// Makes the request the trial that its backend is due.
    pub(super) fn begin_trial(&mut self) {
        if let Some(flight) = &self.flight {
            self.member.outliers.begin_trial(flight.model());
            self.is_trial = true;
        }
    }

    /// The slot of a chosen backend, with its breaker's token, if there is one, and the number of
    /// other backends that were not tried yet.
    pub(super) fn chosen(mut self, token: Option<Token>, left: usize) -> Self {
        self.token = Mutex::new(token);
        self.left = left;
        self
    }

    /// Takes the breaker's token, if there is one; only the first call gets it.
    pub(super) fn take_token(&self) -> Option<Token> {
        lock(&self.token).take()
    }
}

impl<S> Drop for Slot<S> {
    fn drop(&mut self) {
        self.member.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.is_trial
            && let Some(flight) = &self.flight
        {
            self.member.outliers.end_trial(flight.model());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use llamatower_layers::breaker::BreakerPolicy;

    use super::*;
    use crate::ollama::upstream::Access;

    /// A member without a service; its slots are those that are configured.
    pub(in super::super) fn member(
        address: &str,
        slots: Option<u32>,
        router: &Router,
    ) -> Arc<Member<()>> {
        let backend = Backend::new(
            address.parse().unwrap(),
            Duration::from_secs(1),
            &Access::default(),
        );
        let breaker = Breaker::new(BreakerPolicy::default());
        let spec = ServerSpec {
            slots,
            ..ServerSpec::new(backend.name().clone())
        };
        let entry = PolicyEntry::new(spec, router);
        let (backend, slots) = (Arc::new(backend), SlotRule::Learn);
        let member = Member::new(backend, breaker, (), slots, entry);
        Arc::new(member)
    }

    /// An installed model.
    pub(in super::super) fn installed(name: &str) -> Installed {
        Installed {
            name: ModelName::parse(name).unwrap(),
            digest: "".into(),
            size: 0,
            family: "".into(),
            capabilities: Arc::from([]),
        }
    }

    #[test]
    fn requests_in_flight_are_counted() {
        let router = Router::default();
        let member = member("gpu-1", None, &router);
        let held = [member.take(None), member.take(None)];
        assert_eq!(member.in_flight(), 2);
        drop(held);
        assert_eq!(member.in_flight(), 0);
    }

    #[test]
    fn a_refresh_is_complete_after_a_probe_that_began_later() {
        let router = Router::default();
        let member = member("gpu-1", None, &router);
        assert!(!member.was_probed());
        member.note_probed(0);
        assert!(member.was_probed() && member.was_refreshed(0) && !member.was_refreshed(1));
        member.note_probed(1);
        assert!(member.was_refreshed(1));
    }
}
