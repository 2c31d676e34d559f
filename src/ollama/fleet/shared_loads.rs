//! Loads that gateways know of each other: a model that another gateway loads is not loaded a second time
//! for the same requests.
//!
//! Servers list a model only once its load is complete, or shortly before. So each load is noted in Redis
//! before it begins, and those of the others count in the policy like own ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llamatower_layers::ModelName;
use llamatower_layers::store::StoreUnavailable;
use tokio::time::Instant;

use super::Fleet;
use super::flight::Flight;
use super::member::Member;
use crate::shared::{BeginLoad, LoadElsewhere, Loads, Scope};

/// The loads by other gateways that this one knows.
#[derive(Debug, Default)]
pub(super) struct LoadsElsewhere(Mutex<Vec<Known>>);

#[derive(Debug)]
struct Known {
    load: LoadElsewhere,
    /// Whether it counts in the policy.
    counts: bool,
    /// When the policy was told of its state.
    told: Instant,
}

impl LoadsElsewhere {
    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that a choice at this time has considered.
    fn considered(&self, chosen: Instant) -> Vec<LoadElsewhere> {
        let known = self.lock();
        let known = known.iter().filter(|known| known.told <= chosen);
        known.map(|known| known.load.clone()).collect()
    }

    fn complete(&self) -> Vec<LoadElsewhere> {
        let known = self.lock();
        let known = known.iter().filter(|known| known.load.is_complete);
        known.map(|known| known.load.clone()).collect()
    }
}

impl<S> Fleet<S> {
    /// Exchanges loads with the other gateways, until it is dropped.
    pub async fn share_loads(&self) {
        if let Some(loads) = self.config.shared_loads.clone() {
            loads.run(|others| self.note_loads(others)).await;
        }
    }

    /// Asks whether a load may begin, for a request that loads its model; `chosen` is the time of the choice.
    /// Without one it is a load by the gateway itself.
    pub(super) fn load_to_begin(
        &self,
        flight: &Flight,
        member: &Member<S>,
        chosen: Option<Instant>,
    ) -> Option<impl Future<Output = Result<BeginLoad, StoreUnavailable>> + Send + use<S>> {
        let loads: Loads = self.config.shared_loads.clone()?;
        if !flight.loads() {
            return None;
        }
        let server = member.backend.name().clone();
        let (scope, known) = match chosen {
            Some(chosen) => (Scope::Model, self.loads_elsewhere.considered(chosen)),
            // While another gateway loads on the server, it is not the time.
            None => (Scope::Server, self.loads_elsewhere.complete()),
        };
        // Clients can write a name in capitals too.
        let model = flight.model().full().to_ascii_lowercase();
        Some(async move { loads.begin(&server, &model, scope, &known).await })
    }

    /// Notes a load by the gateway itself. Returns false if another gateway loads there already.
    pub(super) async fn begins_own_load(&self, flight: &Flight, member: &Member<S>) -> bool {
        if let Some(loads) = &self.config.shared_loads {
            loads.connected().await;
        }
        let Some(beginning) = self.load_to_begin(flight, member, None) else {
            return true;
        };
        match beginning.await {
            Ok(BeginLoad::Yes(load)) => flight.hold_load(load),
            Ok(BeginLoad::Elsewhere(others)) => {
                self.note_loads(others);
                return false;
            }
            // Without Redis each gateway loads what it needs.
            Err(_) => {}
        }
        true
    }

    /// Applies the loads of the other gateways.
    pub(super) fn note_loads(&self, others: Vec<LoadElsewhere>) {
        let mut known = self.loads_elsewhere.lock();
        if known.is_empty() && others.is_empty() {
            return;
        }
        let is_same = |one: &LoadElsewhere, other: &LoadElsewhere| {
            one.id == other.id && one.server == other.server && one.model == other.model
        };
        let mut has_changed = false;
        known.retain(|before| {
            let remains = others.iter().any(|load| is_same(load, &before.load));
            if !remains {
                has_changed |= before.counts;
                self.end_load(before, false);
            }
            remains
        });
        for load in others {
            let before = known.iter_mut().find(|known| is_same(&known.load, &load));
            match before {
                Some(before) if before.load.is_complete == load.is_complete => {}
                Some(before) => {
                    has_changed |= before.counts;
                    self.end_load(before, true);
                    before.load.is_complete = true;
                    (before.counts, before.told) = (false, Instant::now());
                }
                None => {
                    let mut new = Known {
                        counts: self.begin_load_elsewhere(&load),
                        load,
                        told: Instant::now(),
                    };
                    if new.load.is_complete {
                        self.end_load(&new, true);
                        (new.counts, new.told) = (false, Instant::now());
                    }
                    known.push(new);
                    has_changed = true;
                }
            }
        }
        drop(known);
        if has_changed {
            self.queue.slots_changed();
        }
    }

    fn begin_load_elsewhere(&self, load: &LoadElsewhere) -> bool {
        let Some((member, model)) = self.place_of(load) else {
            return false;
        };
        tracing::debug!(backend = load.server, %model, "another gateway loads the model");
        let (id, since) = (member.id, load.since);
        self.router
            .change(|policy| policy.load_began_elsewhere(id, &model, since))
    }

    fn end_load(&self, known: &Known, is_complete: bool) {
        let Some((member, model)) = self.place_of(&known.load).filter(|_| known.counts) else {
            return;
        };
        let (id, since, now) = (member.id, known.load.since, Instant::now());
        self.router
            .change(|policy| policy.load_ended_elsewhere(id, &model, since, is_complete, now));
        member.refresh_resident();
    }

    fn place_of(&self, load: &LoadElsewhere) -> Option<(Arc<Member<S>>, ModelName)> {
        let members = self.catalogue.members();
        let model = members.name(&load.model)?;
        let mut all = members.all().iter();
        let member = all.find(|member| **member.backend.name() == *load.server)?;
        Some((member.clone(), model))
    }
}
