//! Who of the backends serves a request: the choice, the slot and the breaker's token, all taken in
//! the queue's critical section.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llamatower_layers::breaker::{Breaker, Token};
use llamatower_layers::queue::Dispatch;
use llamatower_layers::retry::Attempts;
use llamatower_layers::{BoxError, Failure, ModelName};

use super::catalogue::Catalogue;
use super::picker::{Picker, Place};
use super::{Backend, BackendsResting};
use crate::client::Client;

/// Hands out the slots of all backends.
#[derive(Debug)]
pub struct Dispatcher {
    pub(super) backends: Vec<Arc<Backend>>,
    pub(super) breakers: Vec<Breaker>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) picker: Arc<Picker>,
}

/// What waits in one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// The model that requests are about.
    pub model: Option<ModelName>,
    /// Whether they run it, and so need one of its slots.
    pub runs_model: bool,
}

/// A slot of a backend, and leave to send a request there.
#[derive(Debug)]
pub struct BackendSlot {
    place: Place,
    token: Mutex<Option<Token>>,
    /// How many backends there are that could be asked and were not, this one left out.
    pub(super) left: usize,
}

impl BackendSlot {
    /// Which backend it is.
    pub(super) fn index(&self) -> usize {
        self.place.index()
    }

    /// The breaker's token, for the first who asks.
    pub(super) fn take_token(&self) -> Option<Token> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        token.take()
    }
}

impl Dispatcher {
    /// Who has the model; everybody, if nobody has it or none is named: whose own words for that
    /// are the right ones.
    fn holders(&self, model: Option<&ModelName>) -> Vec<usize> {
        let holders = model.map(|model| self.catalogue.holders(model));
        match holders {
            Some(holders) if !holders.is_empty() => holders.to_vec(),
            _ => (0..self.backends.len()).collect(),
        }
    }

    /// When the first of these may be asked again.
    fn resting(&self, holders: &[usize]) -> BackendsResting {
        let names = holders
            .iter()
            .map(|index| self.backends[*index].name().clone());
        let waits = holders
            .iter()
            .map(|index| self.breakers[*index].retry_after());
        let retry_after = waits.map(Option::unwrap_or_default).min();
        BackendsResting {
            backends: names.collect(),
            retry_after: retry_after.unwrap_or_default().max(Duration::from_secs(1)),
        }
    }
}

impl Dispatch for Dispatcher {
    type Class = Class;
    type Key = Option<Client>;
    /// Who was asked before.
    type Request = Option<Attempts>;
    type Slot = BackendSlot;

    /// The best kind first: who has the model and is up and was not asked yet; who has it and is
    /// up; who has it. A kind none of which has a slot leaves the request to the next kind, but
    /// never to a backend that is down while one is up.
    fn try_take(
        &self,
        class: &Class,
        attempts: &Option<Attempts>,
    ) -> Result<Option<BackendSlot>, BoxError> {
        let mut allowed = self.holders(class.model.as_ref());
        let holders = allowed.clone();
        allowed.retain(|index| self.breakers[*index].would_allow());
        if allowed.is_empty() {
            return Err(Failure::from(self.resting(&holders)).into());
        }
        let is_up = |index: &usize| self.backends[*index].is_up();
        if allowed.iter().any(is_up) {
            allowed.retain(is_up);
        }
        let tried = attempts.as_ref().map(Attempts::tried).unwrap_or_default();
        let is_new = |index: &usize| !tried.contains(self.backends[*index].name());
        let fresh: Vec<usize> = allowed.iter().copied().filter(is_new).collect();
        let model = class.model.as_ref().filter(|_| class.runs_model);
        let place = self
            .picker
            .pick(&fresh, model)
            .or_else(|| self.picker.pick(&allowed, model));
        let Some(place) = place else { return Ok(None) };
        let was_fresh = usize::from(fresh.contains(&place.index()));
        // Nobody else takes tokens but requests that come without one.
        let token = self.breakers[place.index()].acquire().ok();
        Ok(Some(BackendSlot {
            place,
            token: Mutex::new(token),
            left: fresh.len() - was_fresh,
        }))
    }
}
