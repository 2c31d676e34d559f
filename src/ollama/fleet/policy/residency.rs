//! What is in the memory of each server: as the servers tell it, and as the gateway's own requests
//! change it in between.

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::context::Context;
use super::lane::{Lane, seconds};
use super::memory::{Load, Room};
use super::outside::Outside;
use super::{Policy, Residency, ServerId, change_lane, lane, server};

/// A model in memory, as a server lists it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InMemory {
    pub(crate) model: ModelName,
    /// Its size in memory, in bytes; 0 if it is not known.
    pub(crate) bytes: u64,
    /// The size of its context, in tokens.
    pub(crate) context: Option<u64>,
    /// When it leaves memory without another request.
    pub(crate) expires: Option<Instant>,
}

impl Lane {
    /// Notes that the server lists the model as in memory. `asked` is the time of the question: what the
    /// gateway saw later counts more.
    fn list(&mut self, row: &InMemory, asked: Instant, now: Instant) {
        if row.bytes > 0 {
            self.bytes = row.bytes;
        }
        self.expires = row.expires;
        let context = row.context;
        self.context.listed(context, asked);
        match self.residency {
            // It is still there, until it is loaded with another context.
            Residency::Loading(_) if self.old_context.is_some_and(|old| context == Some(old)) => {}
            // Ollama lists a model from the moment that its weights begin to load.
            Residency::Loading(since)
                if self.in_flight > 0 && seconds(since, now) < self.load_seconds() => {}
            Residency::Resident { .. } => self.residency = Residency::Resident { context },
            // The gateway has seen later that it has to be loaded.
            Residency::Cold if self.changed.is_some_and(|changed| changed > asked) => {}
            _ => self.set_residency(Residency::Resident { context }, now),
        }
    }
}

impl Policy {
    /// Sets the models in the memory of a server, as it has listed them; `None` if it has no such
    /// list. `asked` is the time of the question: what the gateway saw later counts more.
    pub(crate) fn set_residents(
        &mut self,
        id: ServerId,
        listed: Option<&[InMemory]>,
        asked: Instant,
        now: Instant,
    ) {
        let Some(of) = server(&mut self.servers, id) else {
            return;
        };
        if of.spec.keeps_models {
            return;
        }
        let told = std::mem::replace(&mut of.tells_residents, listed.is_some());
        of.listed = listed.map(<[InMemory]>::to_vec).unwrap_or_default();
        let Some(listed) = listed else {
            if told {
                self.for_each_lane(id, |lane| lane.set_residency(Residency::Unknown, now));
            }
            return;
        };
        if !told {
            self.for_each_lane(id, |lane| {
                if lane.residency == Residency::Unknown && lane.running == 0 {
                    // Not a change that the gateway has seen: the list decides.
                    lane.residency = Residency::Cold;
                }
            });
        }
        self.unload_unlisted(id, listed, asked, now);
        for row in listed {
            let is_resident = change_lane(&mut self.models, &row.model, id, |lane| {
                lane.list(row, asked, now);
                lane.is_warm()
            });
            if let Some(server) =
                server(&mut self.servers, id).filter(|_| is_resident == Some(true))
            {
                server.add_resident(&row.model);
            }
        }
        let load = Load {
            models: listed.len(),
            bytes: listed.iter().map(|row| row.bytes).sum(),
        };
        if let Some(server) = server(&mut self.servers, id) {
            server.memory.holds(load);
            if let Some((loading, _)) = &server.loading
                && let Some(lane) = lane(&mut self.models, loading, id)
                && lane.is_warm()
            {
                server.loading = None;
            }
        }
    }

    /// Whether requests wait for a model that this server has.
    pub(crate) fn has_waiting(&self, id: ServerId) -> bool {
        let mut models = self.models.values();
        models.any(|model| model.waiting > 0 && model.lane(id).is_some())
    }

    /// Whether requests wait for a model that this server has, while it loads this or another one.
    pub(crate) fn is_load_awaited(&self, id: ServerId) -> bool {
        let Some(server) = self.server(id).filter(|server| server.tells_residents) else {
            return false;
        };
        let loads = |lane: &Lane| {
            server.loading.is_some()
                || matches!(lane.residency, Residency::Loading(_))
                // A request was sent as if the model were there.
                || (lane.residency == Residency::Cold && lane.in_flight > 0)
        };
        let mut models = self.models.values().filter(|model| model.waiting > 0);
        models.any(|model| model.lane(id).is_some_and(loads))
    }

    /// Forgets what was in the memory of a server, and what was learned of its slots, because it
    /// was down.
    pub(crate) fn restarted(&mut self, id: ServerId, now: Instant) {
        if let Some(server) = server(&mut self.servers, id) {
            server.residents.clear();
            server.listed.clear();
            server.loading = None;
            server.outside = Outside::default();
        }
        self.for_each_lane(id, |lane| {
            lane.slots.forget();
            lane.has_answered = false;
            lane.context = Context::default();
            if lane.residency != Residency::Unknown {
                lane.set_residency(Residency::Cold, now);
            }
        });
    }

    /// A model that is no longer listed was unloaded: if not because its time was over, then to
    /// make room.
    fn unload_unlisted(&mut self, id: ServerId, listed: &[InMemory], asked: Instant, now: Instant) {
        let Some(of) = server(&mut self.servers, id) else {
            return;
        };
        let is_listed = |model: &ModelName| listed.iter().any(|row| row.model == *model);
        let mut load = Load {
            models: listed.len(),
            bytes: listed.iter().map(|row| row.bytes).sum(),
        };
        // A model that is being loaded is not listed, but has its place already.
        if let Some((loading, _)) = of.loading.as_ref().filter(|(model, _)| !is_listed(model)) {
            let lane = lane(&mut self.models, loading, id);
            load = load.with(lane.map_or(0, |lane| lane.bytes));
        }
        let residents = of.residents.clone();
        for model in residents.iter().filter(|model| !is_listed(model)) {
            let is_unloaded = change_lane(&mut self.models, model, id, |lane| {
                let is_newer = lane.changed.is_some_and(|changed| changed > asked);
                if is_newer || lane.running > 0 || !lane.is_warm() {
                    return false;
                }
                let has_expired = lane.expires.is_some_and(|at| at <= now);
                if !has_expired && of.loaded_since(lane.changed) {
                    of.memory.overflowed(load.with(lane.bytes));
                }
                lane.set_residency(Residency::Cold, now);
                true
            });
            if is_unloaded != Some(false) {
                of.remove_resident(model);
            }
        }
    }

    /// Notes that a request that loads a model is sent. A server with room for one model alone
    /// unloads the other at once.
    pub(super) fn begin_load(&mut self, id: ServerId, model: &ModelName, now: Instant) {
        let (room, victims) = self.victims(id, model);
        change_lane(&mut self.models, model, id, |lane| {
            let old_context = match lane.residency {
                Residency::Resident { context } => context,
                _ => None,
            };
            lane.set_residency(Residency::Loading(now), now);
            lane.old_context = old_context;
        });
        if let Some(server) = server(&mut self.servers, id) {
            server.loading = Some((model.clone(), now));
            server.last_load = Some(now);
        }
        // Which of several models will go only the server knows; it lists them after the load.
        if let (Room::Full, [victim]) = (room, &victims[..]) {
            self.unloaded(id, victim, now);
        }
        if let Some(known) = self.models.get_mut(model) {
            for rest in std::mem::take(&mut known.rests) {
                self.end_rest(rest);
            }
        }
    }

    /// The models of a server of which one has to be unloaded before this one can be loaded, or may
    /// have to be if it is not known whether there is room.
    pub(super) fn victims(&self, id: ServerId, model: &ModelName) -> (Room, Vec<ModelName>) {
        let Some(server) = self.server(id) else {
            return (Room::Free, Vec::new());
        };
        let bytes_of = |model| {
            let lane = self.models.get(model).and_then(|model| model.lane(id));
            lane.map_or(0, |lane| lane.bytes)
        };
        let mut others: Vec<_> = server.residents.clone();
        others.retain(|resident| resident != model);
        let load = Load {
            models: others.len(),
            bytes: others.iter().map(bytes_of).sum(),
        };
        match server.room_for(load, bytes_of(model)) {
            Room::Free => (Room::Free, Vec::new()),
            room => (room, others),
        }
    }

    pub(super) fn loaded(&mut self, id: ServerId, model: &ModelName, now: Instant) {
        let Some(server) = server(&mut self.servers, id) else {
            return;
        };
        if matches!(&server.loading, Some((loading, _)) if loading == model) {
            server.loading = None;
        }
        server.add_resident(model);
        change_lane(&mut self.models, model, id, |lane| {
            if !lane.is_warm() {
                // A request that was sent as if the model were in memory has loaded it.
                server.last_load = Some(now);
                let context = lane.context.expected();
                lane.set_residency(Residency::Resident { context }, now);
            }
        });
    }

    /// A request that should have loaded a model since this time ended before its first byte.
    pub(super) fn not_loaded(
        &mut self,
        id: ServerId,
        model: &ModelName,
        since: Instant,
        now: Instant,
    ) {
        if let Some(server) = server(&mut self.servers, id)
            && matches!(&server.loading, Some((loading, at)) if loading == model && *at == since)
        {
            server.loading = None;
        }
        change_lane(&mut self.models, model, id, |lane| {
            if lane.residency == Residency::Loading(since) {
                lane.set_residency(Residency::Cold, now);
            }
        });
    }

    /// Notes that a model is no longer in the memory of a server.
    pub(crate) fn unloaded(&mut self, id: ServerId, model: &ModelName, now: Instant) {
        if let Some(server) = server(&mut self.servers, id) {
            server.remove_resident(model);
        }
        change_lane(&mut self.models, model, id, |lane| {
            if lane.residency != Residency::Unknown {
                lane.set_residency(Residency::Cold, now);
            }
        });
    }

    fn for_each_lane(&mut self, id: ServerId, mut change: impl FnMut(&mut super::Lane)) {
        for model in self.models.values_mut() {
            model.change_lane(id, &mut change);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Residency, ServerSpec};
    use super::*;

    #[test]
    fn the_first_list_of_a_server_shows_what_is_in_memory() {
        let (mut policy, asked) = (Policy::default(), Instant::now());
        let id = policy.add_server(ServerSpec::new("a".into()));
        let models = ["m", "other"].map(|name| ModelName::parse(name).unwrap());
        policy.set_installed(id, &models.each_ref().map(|name| (name.clone(), 3)));
        let row = InMemory {
            model: models[0].clone(),
            bytes: 5,
            context: None,
            expires: None,
        };
        let answered = asked + std::time::Duration::from_millis(1);
        policy.set_residents(id, Some(&[row]), asked, answered);
        let residency = |name| policy.models[name].lane(id).unwrap().residency;
        assert_eq!(residency(&models[0]), Residency::Resident { context: None });
        assert_eq!(residency(&models[1]), Residency::Cold);
    }

    #[test]
    fn a_model_that_is_listed_while_it_loads_is_not_in_memory_yet() {
        let (mut policy, begun) = (Policy::default(), Instant::now());
        let id = policy.add_server(ServerSpec::new("a".into()));
        let model = ModelName::parse("m").unwrap();
        policy.set_installed(id, &[(model.clone(), 10 << 30)]);
        policy.set_residents(id, Some(&[]), begun, begun);
        let lane = change_lane(&mut policy.models, &model, id, |lane| {
            lane.set_residency(Residency::Loading(begun), begun);
            lane.in_flight = 1;
            lane.load_seconds()
        });
        let usual = std::time::Duration::from_secs_f64(lane.unwrap());
        let row = InMemory {
            model: model.clone(),
            bytes: 10 << 30,
            context: Some(4096),
            expires: None,
        };
        for (after, is_loaded) in [(usual / 2, false), (usual * 2, true)] {
            let now = begun + after;
            policy.set_residents(id, Some(std::slice::from_ref(&row)), now, now);
            assert_eq!(policy.is_resident(&model, id), is_loaded, "{after:?}");
        }
    }

    #[test]
    fn a_model_may_be_listed_as_in_memory_before_it_is_listed_as_installed() {
        let (mut policy, now) = (Policy::default(), Instant::now());
        let id = policy.add_server(ServerSpec::new("a".into()));
        let model = ModelName::parse("m").unwrap();
        let row = InMemory {
            model: model.clone(),
            bytes: 5,
            context: Some(4096),
            expires: None,
        };
        policy.set_residents(id, Some(&[row]), now, now);
        let other = ModelName::parse("other").unwrap();
        policy.set_installed(id, &[(model.clone(), 3), (other.clone(), 3)]);
        assert!(policy.is_resident(&model, id) && !policy.is_resident(&other, id));
        let lane = policy.models[&model].lane(id).unwrap();
        let context = Some(4096);
        assert_eq!(
            (lane.residency, lane.bytes),
            (Residency::Resident { context }, 5)
        );
        assert_eq!(policy.server(id).unwrap().residents, [model]);
    }
}
