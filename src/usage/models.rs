//! The models that have rows of their own. Their number is limited, because clients choose the names.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use foldhash::{HashMap, HashSet};
use llamatower_layers::{ModelName, Outcome};

use super::OTHER;
use crate::cloud::SentToCloud;
use crate::telemetry::{FleetView, bounded};

/// The number of models with rows of their own.
const MAX_MODELS: usize = 200;
/// The number of spellings of these models that are remembered, such as `tiny` and `tiny:latest`.
const MAX_SPELLINGS: usize = 1000;

/// The models with rows of their own.
pub(super) struct Models {
    known: RwLock<Known>,
    fleet: OnceLock<Arc<dyn FleetView>>,
    other: Arc<str>,
}

#[derive(Default)]
struct Known {
    by_spelling: HashMap<Arc<str>, Arc<str>>,
    names: HashSet<Arc<str>>,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            fleet: OnceLock::new(),
            other: OTHER.into(),
        }
    }
}

impl Models {
    pub(super) fn set_fleet(&self, fleet: Arc<dyn FleetView>) {
        let _ = self.fleet.set(fleet);
    }

    /// The name of the row of a request's model: of the model that answered, with its tag.
    pub(super) fn row(&self, outcome: &Outcome) -> Arc<str> {
        let model = outcome.served_model.as_ref().or(outcome.model.as_ref());
        let Some(model) = model else {
            return self.other.clone();
        };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let name = known.by_spelling.get(model).cloned();
        drop(known);
        let admitted = name.or_else(|| self.admit(model, outcome));
        admitted.unwrap_or_else(|| self.other.clone())
    }

    /// The number of spellings that are remembered.
    #[cfg(test)]
    pub(super) fn known_spellings(&self) -> usize {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_spelling.len()
    }

    fn admit(&self, model: &Arc<str>, outcome: &Outcome) -> Option<Arc<str>> {
        let is_success = outcome.status.is_some_and(|status| status.is_success());
        let was_served = is_success && outcome.backend.is_some();
        let is_in_fleet = || {
            let fleet = self.fleet.get();
            fleet.is_some_and(|fleet| fleet.knows(model))
        };
        if !was_served && !is_in_fleet() || model.len() > bounded(model).len() {
            return None;
        }
        // The cloud service has its own names, as they are in the settings.
        let name: Arc<str> = match outcome.extensions.get::<SentToCloud>() {
            Some(_) => model.clone(),
            None => ModelName::parse(model).ok()?.to_string().into(),
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.names.len() >= MAX_MODELS && !known.names.contains(&name) {
            return None;
        }
        known.names.insert(name.clone());
        if known.by_spelling.len() < MAX_SPELLINGS {
            known.by_spelling.insert(model.clone(), name.clone());
        }
        Some(name)
    }
}
