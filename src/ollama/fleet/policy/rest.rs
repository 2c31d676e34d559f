//! Requests that wait for a model in no memory: where it could be loaded, and which busy model rests so
//! that it can be.

use std::time::Duration;

use llamatower_layers::ModelName;

use super::choose::Ask;
use super::cost::{LONGEST_REST, has_had_its_time, is_overdue, service_seconds};
use super::model::Model;
use super::{Policy, ServerId};

impl Model {
    /// Whether requests wait for it, it is in no memory, and this server could load it for them.
    fn waits_for_load_on(&self, id: ServerId) -> bool {
        self.waiting > 0
            && self.copies().is_empty()
            && self.lane(id).is_some_and(|lane| lane.is_usable)
    }
}

impl Policy {
    /// Notes that a request waits. `may_use` says whether it could be sent to a server.
    pub(super) fn note_waiting(&mut self, ask: &Ask<'_>, may_use: impl Fn(ServerId) -> bool) {
        let Some(model) = self.models.get_mut(ask.model) else {
            return;
        };
        model.oldest = Some(ask.since);
        if model.copies().is_empty() {
            for lane in &mut model.lanes {
                lane.is_usable = may_use(lane.server);
            }
            self.let_others_rest(ask);
        }
    }

    /// Whether requests have waited longer for a model that is in no memory and could be loaded on
    /// this server.
    pub(super) fn is_needed_elsewhere(&self, ask: &Ask<'_>, id: ServerId) -> bool {
        self.models.iter().any(|(name, model)| {
            name != ask.model
                && model.oldest.is_some_and(|oldest| oldest < ask.since)
                && model.waits_for_load_on(id)
        })
    }

    /// Whether a request waits for a model that is in no memory and could be loaded on this server.
    pub(super) fn is_load_wanted(&self, id: ServerId) -> bool {
        let mut models = self.models.values();
        models.any(|model| model.waits_for_load_on(id))
    }

    /// Lets a model rest on one server, if the request waits for its model, which is in no memory, for too
    /// long: a busy model would keep it out for ever, because Ollama unloads only what is idle.
    fn let_others_rest(&mut self, ask: &Ask<'_>) {
        let Some(model) = self.models.get(ask.model) else {
            return;
        };
        if !model.rests.is_empty() {
            return;
        }
        let lanes = model.lanes.iter().filter(|lane| lane.is_usable);
        let candidates = lanes.filter_map(|lane| {
            let load = lane.load_seconds();
            let is_free = self.server(lane.server)?.loading.is_none();
            let victim = (is_free && is_overdue(model, load, ask))
                .then(|| self.victim_to_rest(lane.server, ask, load))??;
            let (name, cost) = victim;
            Some((name, lane.server, load, cost + load))
        });
        let best = candidates.min_by(|a, b| a.3.total_cmp(&b.3));
        let Some((victim, id, load, _)) = best else {
            return;
        };
        let until = ask.now + Duration::from_secs_f64(LONGEST_REST * load);
        if let Some(lane) = super::lane(&mut self.models, &victim, id) {
            lane.resting_until = Some(until);
        }
        if let Some(model) = self.models.get_mut(ask.model) {
            model.rests.push((victim, id));
        }
    }

    /// The model of a server that is soonest idle, among those that have had their time in memory.
    fn victim_to_rest(&self, id: ServerId, ask: &Ask<'_>, load: f64) -> Option<(ModelName, f64)> {
        let server = self.server(id)?;
        let (_, victims) = self.victims(id, ask.model);
        let victims = victims.into_iter();
        let times = victims.filter_map(|name| {
            let model = self.models.get(&name)?;
            let lane = model.lane(id)?;
            let has_had_its_time = has_had_its_time(lane, load, ask.now);
            let is_free = lane.resting_until.is_none_or(|until| until <= ask.now);
            let idle_in = lane.until_idle(service_seconds(model, lane, server));
            (has_had_its_time && is_free).then_some((name, idle_in))
        });
        times.min_by(|a, b| a.1.total_cmp(&b.1))
    }
}
