//! The routing policy: which server gets a request, and when.
//!
//! It minimises the expected seconds until the response is complete. For each server that has the
//! model it adds up ([`Terms`]):
//!
//! - **load**: the time until the model is in memory, and the harm of unloading another for it;
//! - **wait**: the time until a slot is free, also of those that others use, if the server tells that;
//! - **work**: prompt and expected output at the measured speed;
//! - **affinity**: less the prompt's part that the server has in its prefix cache.
//!
//! A request waits in the queue while its best server is busy, unless so many wait that another
//! server helps all of them.
//!
//! This code gets the time as an argument, does no I/O and starts no task, so that the gateway and
//! the simulator run the same. [`Policy`] is the state of the whole fleet; the fleet holds it under
//! a lock.

mod average;
mod bench;
mod choose;
mod context;
mod cost;
mod decisions;
mod elsewhere;
mod expected;
mod lane;
mod memory;
mod model;
mod outside;
mod own_load;
mod prefix;
mod residency;
mod rest;
mod sample;
mod server;
mod slots;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use foldhash::HashMap;
use llamatower_layers::ModelName;
use tokio::time::Instant;

pub use bench::ChoiceBench;
pub use choose::Availability;
pub(crate) use choose::{Ask, Grant, View};
pub use cost::Terms;
pub use decisions::{Candidate, Decision, DecisionId};
pub use lane::Residency;
pub(crate) use lane::{Flight, Phases, Report};
pub use outside::ReportedLoad;
pub(crate) use own_load::OwnLoad;
pub(crate) use residency::InMemory;
pub(crate) use server::ServerSpec;
pub(crate) use slots::NO_LIMIT;
pub use slots::{SlotSource, SlotStatus};
pub use snapshot::{MemoryStatus, ModelStatus, Occupancy};

use average::Average;
use decisions::Decisions;
use lane::Lane;
use model::Model;
use sample::Sampler;
use server::Server;

/// The index of a server. It is used again after the server was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServerId(u32);

impl ServerId {
    /// The server that was added with this index.
    pub(crate) fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The index.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The index of a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlightId(u32);

/// The number of slots of a model on a server was learned, or is another one than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotsLearned {
    /// The name of the server.
    pub(crate) server: Arc<str>,
    pub(crate) slots: u32,
}

/// The state of the fleet that choices depend on.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    servers: Vec<Option<Server>>,
    models: HashMap<ModelName, Model>,
    flights: Vec<Flight>,
    free_flights: Vec<FlightId>,
    decisions: Decisions,
    /// The search begins with another server each time, so that equal ones take turns.
    turn: usize,
    sampler: Sampler,
    /// The seconds of measured loads as a multiple of what was assumed.
    load_factor: Average,
    /// The number of other gateways that divide the limits with this one.
    other_gateways: u32,
}

impl Policy {
    /// A policy whose random choices depend on the seed alone.
    pub(crate) fn with_seed(seed: u64) -> Self {
        Self {
            sampler: Sampler::with_seed(seed),
            ..Self::default()
        }
    }

    /// Adds a server without models.
    pub(crate) fn add_server(&mut self, spec: ServerSpec) -> ServerId {
        let server = Some(Server::new(spec, self.gateways()));
        let index = match self.servers.iter().position(Option::is_none) {
            Some(free) => {
                self.servers[free] = server;
                free
            }
            None => {
                self.servers.push(server);
                self.servers.len() - 1
            }
        };
        ServerId::from_index(index)
    }

    fn gateways(&self) -> u32 {
        self.other_gateways.saturating_add(1)
    }

    /// Divides configured slots and requests in flight by the number of gateways.
    pub(crate) fn divide_slots(&mut self, gateways: u32) {
        self.other_gateways = gateways.saturating_sub(1);
        for lane in self.models.values_mut().flat_map(|model| &mut model.lanes) {
            lane.slots.divide(gateways);
            self.sampler.note_change(lane.server);
        }
        for server in self.servers.iter_mut().flatten() {
            server.gateways = gateways;
        }
    }

    /// Gives a server another name.
    pub(crate) fn rename_server(&mut self, id: ServerId, name: Arc<str>) {
        if let Some(server) = server(&mut self.servers, id) {
            server.spec.name = name;
        }
    }

    /// Removes a server that has no request in flight.
    pub(crate) fn remove_server(&mut self, id: ServerId) {
        if let Some(server) = self.servers.get_mut(id.0 as usize).and_then(Option::take) {
            self.decisions.removed(id, &server.spec.name);
        }
        for model in self.models.values_mut() {
            model.forget(id);
        }
        self.models.retain(|_, model| model.is_in_use());
    }

    /// Sets the models that a server may run, with their size on disk in bytes or 0.
    pub(crate) fn set_installed(&mut self, id: ServerId, installed: &[(ModelName, u64)]) {
        let gateways = self.gateways();
        let Some(server) = server(&mut self.servers, id) else {
            return;
        };
        for (name, model) in &mut self.models {
            if !installed.iter().any(|(installed, _)| installed == name) {
                model.remove(id);
            }
        }
        for (name, bytes) in installed {
            let model = self.models.entry(name.clone()).or_default();
            if model.lane(id).is_none() {
                let gone = model.take_gone(id);
                let mut lane = gone.unwrap_or_else(|| Lane::new(id, server.spec.slots));
                lane.slots.divide(gateways);
                lane.is_pinned = server.spec.pinned.contains(name);
                lane.bytes = *bytes;
                lane.load_factor = self.load_factor.get().unwrap_or(1.0);
                lane.is_kept = server.spec.keeps_models;
                server.place_in_memory(&mut lane, name);
                model.insert(lane);
            }
        }
        self.models.retain(|_, model| model.is_in_use());
    }

    /// Sets whether other gateways use all slots of a model on a server.
    pub(crate) fn set_full_elsewhere(&mut self, id: ServerId, name: &ModelName, is_full: bool) {
        if let Some(lane) = lane(&mut self.models, name, id) {
            lane.is_full_elsewhere = is_full;
            self.sampler.note_change(id);
        }
    }

    /// Sets the number of requests that wait for a model.
    pub(crate) fn set_waiting(&mut self, name: &ModelName, waiting: usize) {
        let Some(model) = self.models.get_mut(name) else {
            return;
        };
        model.waiting = waiting;
        if waiting == 0 {
            model.oldest = None;
            for resting in std::mem::take(&mut model.rests) {
                self.end_rest(resting);
            }
        }
    }

    /// The number of requests that wait for a model.
    pub(crate) fn waiting(&self, model: &ModelName) -> usize {
        self.models.get(model).map_or(0, |model| model.waiting)
    }

    /// Whether another server than this one has the model.
    pub(crate) fn is_held_elsewhere(&self, model: &ModelName, id: ServerId) -> bool {
        let lanes = self.models.get(model).map(|model| &model.lanes);
        lanes.is_some_and(|lanes| lanes.iter().any(|lane| lane.server != id))
    }

    /// Records the first byte of a good response. Returns whether the server has to be asked what
    /// is in its memory: the request has loaded the model, or the size of its context is not known
    /// any more; and the slots, if they were learned.
    pub(crate) fn first_byte(
        &mut self,
        model: &ModelName,
        id: FlightId,
        now: Instant,
    ) -> (bool, Option<SlotsLearned>) {
        let Some(flight) = self.flights.get_mut(id.0 as usize) else {
            return (false, None);
        };
        let (server, loads) = (flight.server, flight.loads);
        self.sampler.note_change(server);
        let mut was_cold = loads;
        let mut has_changed = loads;
        let model_of = self.models.get_mut(model);
        let lane = model_of.and_then(|model| model.lane_in_flight(server));
        let slots = lane.and_then(|lane| {
            was_cold |= !lane.is_warm();
            has_changed |= lane.answered(flight, now);
            lane.first_byte(flight, now);
            lane.slots.learned()
        });
        if was_cold {
            self.loaded(server, model, now);
        }
        (has_changed || was_cold, self.slots_learned(server, slots))
    }

    /// Records the end of a request; `report` is what a complete response said.
    pub(crate) fn end(
        &mut self,
        model: &ModelName,
        id: FlightId,
        report: Option<Report>,
        now: Instant,
    ) -> Option<SlotsLearned> {
        let flight = self.flights.get(id.0 as usize).copied()?;
        self.free_flights.push(id);
        self.sampler.note_change(flight.server);
        let mut weight = 1.0;
        if let Some(server) = server(&mut self.servers, flight.server) {
            server.in_flight = server.in_flight.saturating_sub(1);
            weight = server.spec.weight;
            if server.in_flight == 0 && !flight.is_own {
                server.idle_since = Some(now);
            }
        }
        if flight.loads && flight.first_byte.is_none() {
            self.not_loaded(flight.server, model, flight.sent, now);
        }
        let known = self.models.get_mut(model)?;
        let slots = known.end(&flight, report, weight, now);
        // Of a model that no server lists any more.
        let is_last = !known.is_in_use();
        if report.is_some() && (flight.loads_at_once || flight.is_own) {
            let lane = known.lane(flight.server);
            let factor = lane.and_then(Lane::measured_load_factor);
            self.loads_take(factor);
        }
        if is_last {
            self.models.remove(model);
        }
        self.slots_learned(flight.server, slots)
    }

    /// Loads that were not measured yet are expected to be as much slower or faster than assumed as
    /// those that were.
    fn loads_take(&mut self, factor: Option<f64>) {
        let Some(factor) = factor else { return };
        self.load_factor.add(factor);
        let factor = self.load_factor.get().unwrap_or(1.0);
        for model in self.models.values_mut() {
            for lane in &mut model.lanes {
                lane.load_factor = factor;
            }
        }
    }

    fn slots_learned(&self, id: ServerId, slots: Option<u32>) -> Option<SlotsLearned> {
        let (slots, server) = slots.zip(self.name(id))?;
        Some(SlotsLearned {
            server: server.clone(),
            slots,
        })
    }

    /// Counts a request that is sent; its lane has counted it already.
    fn depart(&mut self, flight: Flight) -> FlightId {
        if let Some(server) = server(&mut self.servers, flight.server) {
            server.in_flight += 1;
        }
        match self.free_flights.pop() {
            Some(id) => {
                self.flights[id.0 as usize] = flight;
                id
            }
            None => {
                self.flights.push(flight);
                FlightId(u32::try_from(self.flights.len() - 1).unwrap_or(u32::MAX))
            }
        }
    }

    /// The last choices, the latest first.
    pub(crate) fn decisions(&self) -> Vec<Decision> {
        self.decisions.latest(|id| self.name(id))
    }

    /// A choice, if it is one of the last 100.
    pub(crate) fn decision(&self, id: DecisionId) -> Option<Decision> {
        self.decisions.get(id, |id| self.name(id))
    }

    fn end_rest(&mut self, (model, id): (ModelName, ServerId)) {
        if let Some(lane) = lane(&mut self.models, &model, id) {
            lane.resting_until = None;
        }
    }
}

fn server(servers: &mut [Option<Server>], id: ServerId) -> Option<&mut Server> {
    servers.get_mut(id.0 as usize)?.as_mut()
}

fn lane<'a>(
    models: &'a mut HashMap<ModelName, Model>,
    model: &ModelName,
    id: ServerId,
) -> Option<&'a mut Lane> {
    models.get_mut(model)?.lane_mut(id)
}

/// Changes a lane in a way that may change whether the model is in memory there.
fn change_lane<T>(
    models: &mut HashMap<ModelName, Model>,
    model: &ModelName,
    id: ServerId,
    change: impl FnOnce(&mut Lane) -> T,
) -> Option<T> {
    models.get_mut(model)?.change_lane(id, change)
}
