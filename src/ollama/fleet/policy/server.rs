//! One server, as far as the choice needs it.

use std::sync::Arc;

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::lane::{Lane, Residency};
use super::memory::{Load, Memory, Room};
use super::outside::Outside;
use super::residency::InMemory;
use super::slots::part;

/// The settings of a server.
#[derive(Clone, Debug)]
pub(crate) struct ServerSpec {
    /// Its name in explanations.
    pub(crate) name: Arc<str>,
    /// Its speed relative to the others, used until its speed was measured.
    pub(crate) weight: f64,
    /// The slots for one model; `None` to learn them.
    pub(crate) slots: Option<u32>,
    /// The most requests in flight for all models.
    pub(crate) max_in_flight: Option<u32>,
    /// The models that are to stay in memory.
    pub(crate) pinned: Vec<ModelName>,
    /// All of its models are always in memory, each with one size of context: it never loads one.
    pub(crate) keeps_models: bool,
}

impl ServerSpec {
    /// A server with nothing set.
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            weight: 1.0,
            slots: None,
            max_in_flight: None,
            pinned: Vec::new(),
            keeps_models: false,
        }
    }
}

/// One server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) spec: ServerSpec,
    /// Requests in flight that run a model.
    pub(crate) in_flight: u32,
    /// When the last request of a client ended, if none is in flight.
    pub(crate) idle_since: Option<Instant>,
    /// The models in memory, as far as the gateway knows.
    pub(crate) residents: Vec<ModelName>,
    /// The model that a request of this gateway, or of another one, loads since this time.
    pub(crate) loading: Option<(ModelName, Instant)>,
    /// When such a request began a load last.
    pub(crate) last_load: Option<Instant>,
    /// Whether the server lists the models in its memory.
    pub(crate) tells_residents: bool,
    /// The models that it listed last. Of some it may not be known yet that they are installed.
    pub(crate) listed: Vec<InMemory>,
    pub(crate) memory: Memory,
    /// The work of others.
    pub(crate) outside: Outside,
    /// The number of gateways that divide the limits.
    pub(crate) gateways: u32,
}

impl Server {
    pub(crate) fn new(spec: ServerSpec, gateways: u32) -> Self {
        Self {
            spec,
            gateways,
            in_flight: 0,
            idle_since: None,
            residents: Vec::new(),
            loading: None,
            last_load: None,
            tells_residents: false,
            listed: Vec::new(),
            memory: Memory::default(),
            outside: Outside::default(),
        }
    }

    /// Whether one more request may be in flight.
    pub(crate) fn accepts(&self) -> bool {
        let max = self.spec.max_in_flight;
        max.is_none_or(|max| self.in_flight < part(max, self.gateways))
    }

    /// Sets the residency of a new lane as the server has listed it.
    pub(crate) fn place_in_memory(&mut self, lane: &mut Lane, model: &ModelName) {
        if !self.tells_residents {
            return;
        }
        let row = self.listed.iter().find(|row| row.model == *model);
        lane.residency = match row {
            Some(row) => Residency::Resident {
                context: row.context,
            },
            None => Residency::Cold,
        };
        if let Some(row) = row {
            if row.bytes > 0 {
                lane.bytes = row.bytes;
            }
            lane.expires = row.expires;
            self.add_resident(model);
        }
    }

    pub(crate) fn add_resident(&mut self, model: &ModelName) {
        if !self.residents.contains(model) {
            self.residents.push(model.clone());
        }
    }

    pub(crate) fn remove_resident(&mut self, model: &ModelName) {
        self.residents.retain(|resident| resident != model);
    }

    /// Whether a load began after this time.
    pub(crate) fn loaded_since(&self, time: Option<Instant>) -> bool {
        self.last_load > time
    }

    /// Whether there is room for one more model beside `residents`.
    pub(crate) fn room_for(&self, residents: Load, bytes: u64) -> Room {
        match residents.models {
            0 => Room::Free,
            _ => self.memory.room_for(residents.with(bytes)),
        }
    }
}
