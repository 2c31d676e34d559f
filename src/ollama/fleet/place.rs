//! The places that a request has had in the queues.

use std::sync::{Arc, Mutex, PoisonError};

use http::Extensions;
use llamatower_layers::ModelName;
use tokio::time::Instant;

/// An extension of a request that may go through the fleet again: the models for which it has waited, and when
/// it arrived for each.
///
/// It goes back to its place in a queue that it has left, which its limits let it. In the queue of another model,
/// a fallback, it is new.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<Vec<(ModelName, Instant)>>>);

impl Places {
    /// When this request arrived in the queue for a model, if it was there before.
    pub(super) fn arrival(request: &Extensions, model: Option<&ModelName>) -> Option<Instant> {
        let (places, model) = request.get::<Self>().zip(model)?;
        let places = places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.iter().find(|(known, _)| known == model);
        place.map(|(_, arrival)| *arrival)
    }

    /// Notes that the request is in the queue for a model.
    pub(super) fn note(&self, model: ModelName, arrival: Instant) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !places.iter().any(|(known, _)| *known == model) {
            places.push((model, arrival));
        }
    }
}
