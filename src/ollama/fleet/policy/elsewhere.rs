//! Loads that another gateway has begun. They count like those of this gateway: requests wait for them.

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::{Policy, Residency, ServerId};

impl Policy {
    /// Another gateway has begun to load a model on a server at this time. Returns whether that counts: not
    /// if the model seems to be in memory there.
    pub(crate) fn load_began_elsewhere(
        &mut self,
        id: ServerId,
        model: &ModelName,
        since: Instant,
    ) -> bool {
        let lane = self.models.get(model).and_then(|model| model.lane(id));
        let is_cold = lane.is_some_and(|lane| {
            // If this gateway was about to load it too, the other one was first.
            matches!(lane.residency, Residency::Cold | Residency::Loading(_))
        });
        if is_cold {
            self.begin_load(id, model, since);
            self.sampler.note_change(id);
        }
        is_cold
    }

    /// The load that another gateway has begun at this time is complete, or has failed.
    pub(crate) fn load_ended_elsewhere(
        &mut self,
        id: ServerId,
        model: &ModelName,
        since: Instant,
        is_complete: bool,
        now: Instant,
    ) {
        self.sampler.note_change(id);
        let lane = self.models.get(model).and_then(|model| model.lane(id));
        if lane.is_none_or(|lane| lane.residency != Residency::Loading(since)) {
            return;
        }
        match is_complete {
            true => self.loaded(id, model, now),
            false => self.not_loaded(id, model, since, now),
        }
    }
}
