//! One backend of the fleet, with its own state.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use llamatower_layers::ModelName;
use llamatower_layers::breaker::{Breaker, Token};

use super::backend::Backend;
use super::inventory::{Installed, Residency, Resident};
use super::outlier::Outliers;

/// A backend, its service and its load. It lives as long as a request holds a [`Slot`] of it, even
/// after it has left the fleet.
#[derive(Debug)]
pub(super) struct Member<S> {
    pub(super) backend: Arc<Backend>,
    pub(super) breaker: Breaker,
    pub(super) service: S,
    /// The number of concurrent requests for one model, like Ollama's `OLLAMA_NUM_PARALLEL`; `None`
    /// if slots are not counted.
    pub(super) slots: Option<NonZeroUsize>,
    /// What the backend did lately with each model.
    pub(super) outliers: Outliers,
    in_flight: AtomicUsize,
    /// Only used if slots are counted.
    by_model: Mutex<HashMap<ModelName, usize>>,
    models: Mutex<Arc<[Installed]>>,
    pub(super) residency: Residency,
    /// One more than the number of the last refresh that a probe has answered; 0 before the first
    /// probe.
    probed: AtomicU64,
}

/// A slot of a backend, and the permission to send a request there. Dropping it releases the slot.
#[derive(Debug)]
pub struct Slot<S> {
    member: Arc<Member<S>>,
    /// The model that the request runs.
    model: Option<ModelName>,
    /// The slot is counted for its model.
    is_counted: bool,
    /// The request is a trial; see [`Outliers`].
    is_trial: bool,
    token: Mutex<Option<Token>>,
    /// The number of other backends that were not tried yet.
    pub(super) left: usize,
}

impl<S> Member<S> {
    pub(super) fn new(
        backend: Arc<Backend>,
        breaker: Breaker,
        service: S,
        slots: Option<NonZeroUsize>,
    ) -> Self {
        Self {
            backend,
            breaker,
            service,
            slots,
            outliers: Outliers::default(),
            in_flight: AtomicUsize::new(0),
            by_model: Mutex::default(),
            models: Mutex::new(Arc::from([])),
            residency: Residency::default(),
            probed: AtomicU64::new(0),
        }
    }

    /// The number of requests in progress.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether a slot for a model is free. Requests without a model need no slot.
    pub(super) fn has_slot(&self, model: Option<&ModelName>) -> bool {
        let (Some(slots), Some(model)) = (self.slots, model) else {
            return true;
        };
        let by_model = self.by_model();
        by_model.get(model).is_none_or(|held| *held < slots.get())
    }

    /// Takes a slot, even if none is free.
    pub(super) fn take(self: &Arc<Self>, model: Option<&ModelName>) -> Slot<S> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let is_counted = self.slots.is_some() && model.is_some();
        if let Some(model) = model.filter(|_| is_counted) {
            *self.by_model().entry(model.clone()).or_default() += 1;
        }
        Slot {
            member: self.clone(),
            model: model.cloned(),
            is_counted,
            is_trial: false,
            token: Mutex::default(),
            left: 0,
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

    /// Records a finished probe that began after this refresh was requested.
    pub(super) fn note_probed(&self, refresh: u64) {
        self.probed.fetch_max(refresh + 1, Ordering::Relaxed);
    }

    /// Whether the backend was probed at all.
    pub(super) fn was_probed(&self) -> bool {
        self.probed.load(Ordering::Relaxed) > 0
    }

    /// Whether the backend was probed after this refresh was requested.
    pub(super) fn was_refreshed(&self, refresh: u64) -> bool {
        self.probed.load(Ordering::Relaxed) > refresh
    }

    fn by_model(&self) -> MutexGuard<'_, HashMap<ModelName, usize>> {
        lock(&self.by_model)
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

    /// The model that the request runs.
    pub(super) fn model(&self) -> Option<&ModelName> {
        self.model.as_ref()
    }

    /// Makes the request the trial that its backend is due.
    pub(super) fn begin_trial(&mut self) {
        if let Some(model) = &self.model {
            self.member.outliers.begin_trial(model);
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
        let Some(model) = self.model.take() else {
            return;
        };
        if self.is_trial {
            self.member.outliers.end_trial(&model);
        }
        if !self.is_counted {
            return;
        }
        let mut by_model = self.member.by_model();
        if let Some(held) = by_model.get_mut(&model) {
            *held -= 1;
            if *held == 0 {
                by_model.remove(&model);
            }
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

    /// A member without a service; `slots` 0 means that slots are not counted.
    pub(in super::super) fn member(address: &str, slots: usize) -> Arc<Member<()>> {
        let backend = Backend::new(
            address.parse().unwrap(),
            Duration::from_secs(1),
            &Access::default(),
        );
        let breaker = Breaker::new(BreakerPolicy::default());
        let slots = NonZeroUsize::new(slots);
        Arc::new(Member::new(Arc::new(backend), breaker, (), slots))
    }

    #[test]
    fn slots_are_counted_for_each_model_and_released() {
        let member = member("gpu-1", 2);
        let small = ModelName::parse("small").unwrap();
        let large = ModelName::parse("large").unwrap();
        let mut held = vec![member.take(Some(&small)), member.take(Some(&small))];
        assert_eq!(member.in_flight(), 2);
        assert!(!member.has_slot(Some(&small)));
        assert!(member.has_slot(Some(&large)));
        assert!(member.has_slot(None));
        held.pop();
        assert!(member.has_slot(Some(&small)));
        drop(held);
        assert_eq!(member.in_flight(), 0);
        assert!(member.by_model().is_empty());
    }

    #[test]
    fn a_refresh_is_complete_after_a_probe_that_began_later() {
        let member = member("gpu-1", 0);
        assert!(!member.was_probed());
        member.note_probed(0);
        assert!(member.was_probed() && member.was_refreshed(0) && !member.was_refreshed(1));
        member.note_probed(1);
        assert!(member.was_refreshed(1));
    }
}
