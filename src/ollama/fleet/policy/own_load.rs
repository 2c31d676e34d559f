//! Loads by the gateway itself, of models that a server is to have in memory.

use std::time::Duration;

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::choose::Grant;
use super::cost::Terms;
use super::decisions::DecisionId;
use super::lane::{Flight, Lane, seconds};
use super::memory::{Load, Room};
use super::server::Server;
use super::{Policy, Residency, ServerId};

/// A model that may have to be unloaded for the load is left in memory until the server was idle
/// for a load time of the other one, but no longer than this many seconds. Otherwise a client that
/// sends one request after the other would find its model unloaded each time.
const LONGEST_QUIET: f64 = 30.0;

/// Whether the gateway may load a model by itself.
#[derive(Clone, Debug)]
pub(crate) enum OwnLoad {
    /// Now; the grant is that of the load.
    Begin(Grant),
    /// It is in memory.
    InMemory,
    /// The server does not tell what is in its memory.
    Unknown,
    /// The server loads a model, is busy, or is about to load a model for a client.
    Later,
    /// It does not fit beside these models, which must stay.
    NoRoom(Vec<ModelName>),
}

impl Policy {
    /// Begins the load of a model by the gateway itself, if it disturbs no client. It is not loaded
    /// in the place of a model that is `kept` there.
    pub(crate) fn begin_own_load(
        &mut self,
        id: ServerId,
        model: &ModelName,
        kept: &[ModelName],
        now: Instant,
    ) -> OwnLoad {
        let lane = self.models.get(model).and_then(|model| model.lane(id));
        let Some((server, lane)) = self.server(id).zip(lane) else {
            return OwnLoad::Later;
        };
        match lane.residency {
            Residency::Unknown => return OwnLoad::Unknown,
            Residency::Resident { .. } => return OwnLoad::InMemory,
            Residency::Loading(_) => return OwnLoad::Later,
            Residency::Cold => {}
        }
        // It may be about to load the model.
        if lane.in_flight > 0 || server.loading.is_some() || self.is_load_wanted(id) {
            return OwnLoad::Later;
        }
        let must_stay = self.kept_in_memory(server, model, kept);
        if !must_stay.is_empty() && self.room_beside(id, &must_stay, lane.bytes) == Room::Full {
            return OwnLoad::NoRoom(must_stay);
        }
        let (room, _) = self.victims(id, model);
        if room != Room::Free && !is_quiet(server, lane, now) {
            return OwnLoad::Later;
        }
        let flight = Flight {
            server: id,
            sent: now,
            first_byte: None,
            others: 0,
            loads: true,
            loads_at_once: true,
            streams: false,
            cached: 0.0,
            looks_waited: None,
            num_ctx: None,
            is_own: true,
        };
        self.begin_load(id, model, now);
        if let Some(lane) = super::lane(&mut self.models, model, id) {
            lane.depart(now);
        }
        OwnLoad::Begin(Grant {
            server: id,
            flight: self.depart(flight),
            is_trial: false,
            untried: 0,
            loads: true,
            may_load: true,
            terms: Terms::default(),
            first_byte: Duration::ZERO,
            decision: DecisionId::default(),
            num_ctx: None,
        })
    }

    fn kept_in_memory(
        &self,
        server: &Server,
        model: &ModelName,
        kept: &[ModelName],
    ) -> Vec<ModelName> {
        let residents = server.residents.iter();
        let must_stay = residents.filter(|name| *name != model && kept.contains(name));
        must_stay.cloned().collect()
    }

    fn room_beside(&self, id: ServerId, models: &[ModelName], bytes: u64) -> Room {
        let Some(server) = self.server(id) else {
            return Room::Free;
        };
        let bytes_of = |name| {
            let lane = self.models.get(name).and_then(|model| model.lane(id));
            lane.map_or(0, |lane| lane.bytes)
        };
        let others = Load {
            models: models.len(),
            bytes: models.iter().map(bytes_of).sum(),
        };
        server.room_for(others, bytes)
    }
}

fn is_quiet(server: &Server, lane: &Lane, now: Instant) -> bool {
    let quiet = lane.load_seconds().min(LONGEST_QUIET);
    let was_idle = |since| seconds(since, now) >= quiet;
    server.in_flight == 0 && server.idle_since.is_none_or(was_idle)
}
