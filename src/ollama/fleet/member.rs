//! One backend of the fleet, with everything that belongs to it alone.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use llamatower_layers::ModelName;
use llamatower_layers::breaker::{Breaker, Token};

use super::backend::{Backend, Installed};

/// A backend, the service that asks it, and what it works on. It lives as long as a request
/// holds a [`Slot`] there, also when it has left the fleet.
#[derive(Debug)]
pub(super) struct Member<S> {
    pub(super) backend: Arc<Backend>,
    pub(super) breaker: Breaker,
    pub(super) service: S,
    /// How many requests it works on at a time for one model, as in Ollama's
    /// `OLLAMA_NUM_PARALLEL`; `None` if that is not counted.
    pub(super) slots: Option<NonZeroUsize>,
    in_flight: AtomicUsize,
    /// Only where slots are counted.
    by_model: Mutex<HashMap<ModelName, usize>>,
    models: Mutex<Arc<[Installed]>>,
    /// One more than the last refresh that a probe has answered; 0 before the first probe.
    probed: AtomicU64,
}

/// A slot of a backend, given back when it is dropped, and leave to send a request there.
#[derive(Debug)]
pub struct Slot<S> {
    member: Arc<Member<S>>,
    /// Whose count it is in, where slots are counted.
    model: Option<ModelName>,
    token: Mutex<Option<Token>>,
    /// How many backends there are that could be asked and were not, this one left out.
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
            in_flight: AtomicUsize::new(0),
            by_model: Mutex::default(),
            models: Mutex::new(Arc::from([])),
            probed: AtomicU64::new(0),
        }
    }

    /// How many requests it works on.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it has a slot for a model. Requests without a model need none.
    pub(super) fn has_slot(&self, model: Option<&ModelName>) -> bool {
        let (Some(slots), Some(model)) = (self.slots, model) else {
            return true;
        };
        let by_model = self.by_model();
        by_model.get(model).is_none_or(|held| *held < slots.get())
    }

    /// Takes a slot, whether one is free or not.
    pub(super) fn take(self: &Arc<Self>, model: Option<&ModelName>) -> Slot<S> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let model = model.filter(|_| self.slots.is_some()).cloned();
        if let Some(model) = &model {
            *self.by_model().entry(model.clone()).or_default() += 1;
        }
        Slot {
            member: self.clone(),
            model,
            token: Mutex::default(),
            left: 0,
        }
    }

    /// What it has, as far as is known.
    pub(super) fn models(&self) -> Arc<[Installed]> {
        lock(&self.models).clone()
    }

    /// Notes what it has; true if that is something new.
    pub(super) fn set_models(&self, models: Vec<Installed>) -> bool {
        let mut known = lock(&self.models);
        let is_new = **known != *models;
        if is_new {
            *known = models.into();
        }
        is_new
    }

    /// Notes that a probe has ended that was begun after a refresh was asked for.
    pub(super) fn note_probed(&self, refresh: u64) {
        self.probed.fetch_max(refresh + 1, Ordering::Relaxed);
    }

    /// Whether it was probed at all.
    pub(super) fn was_probed(&self) -> bool {
        self.probed.load(Ordering::Relaxed) > 0
    }

    /// Whether it was probed after a refresh was asked for.
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
    /// Whose it is.
    pub(super) fn member(&self) -> &Arc<Member<S>> {
        &self.member
    }

    /// The slot of a backend that was chosen, with its breaker's token, if there is one, and how
    /// many backends are left.
    pub(super) fn chosen(mut self, token: Option<Token>, left: usize) -> Self {
        self.token = Mutex::new(token);
        self.left = left;
        self
    }

    /// The breaker's token, if there is one, for the first that asks.
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

    /// A member that is asked by nothing; no slots are counted if there are 0.
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
    fn slots_are_those_of_a_model_and_come_back() {
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
    fn a_refresh_is_done_by_a_probe_that_began_after_it() {
        let member = member("gpu-1", 0);
        assert!(!member.was_probed());
        member.note_probed(0);
        assert!(member.was_probed() && member.was_refreshed(0) && !member.was_refreshed(1));
        member.note_probed(1);
        assert!(member.was_refreshed(1));
    }
}
