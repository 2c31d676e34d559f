//! The models that have rows of their own. Their number is limited, because clients choose the names.

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use foldhash::{HashMap, HashSet};
use llamatower_layers::{ModelName, Outcome};

use crate::cloud;
use crate::telemetry::names::OTHER;
use crate::telemetry::{FleetView, MAX_MODELS, bounded};

/// The number of spellings of the fleet's models that are remembered, such as `tiny` and `tiny:latest`, and
/// that of names in the cloud.
const MAX_SPELLINGS: usize = 1000;

/// The models with rows of their own.
pub(super) struct Models {
    known: RwLock<Known>,
    fleet: OnceLock<Arc<dyn FleetView>>,
    other: Arc<str>,
}

#[derive(Default)]
pub(super) struct Known {
    /// The rows by spelling: of models of the fleet, and of models of the cloud.
    spellings: [HashMap<Arc<str>, Arc<str>>; 2],
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

    /// The name of the row of a request's model: of the model that answered, with its tag and in lower case.
    pub(super) fn row(&self, outcome: &Outcome) -> Arc<str> {
        let model = outcome.served_model.as_ref().or(outcome.model.as_ref());
        let Some(model) = model else {
            return self.other.clone();
        };
        let is_cloud = cloud::has_worked_for(outcome);
        let name = self.read().row(model, is_cloud);
        let admitted = name.or_else(|| self.admit(model, is_cloud, outcome));
        admitted.unwrap_or_else(|| self.other.clone())
    }

    /// The number of spellings that are remembered.
    #[cfg(test)]
    pub(super) fn known_spellings(&self) -> usize {
        let known = self.read();
        known.spellings.iter().map(HashMap::len).sum()
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, model: &Arc<str>, is_cloud: bool, outcome: &Outcome) -> Option<Arc<str>> {
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
        let name: Arc<str> = match is_cloud {
            true => model.clone(),
            // Ollama takes any case for the same model.
            false => {
                let name = ModelName::parse(model).ok()?.to_string();
                name.to_ascii_lowercase().into()
            }
        };
        let known = self.read();
        if !known.has_room_for(&name) {
            return None;
        }
        // Only what changes something takes the lock that others wait for.
        let is_new = !known.names.contains(&name) || known.remembers_more(is_cloud);
        drop(known);
        if !is_new {
            return Some(name);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if !known.has_room_for(&name) {
            return None;
        }
        known.names.insert(name.clone());
        if known.remembers_more(is_cloud) {
            let spellings = &mut known.spellings[usize::from(is_cloud)];
            spellings.insert(model.clone(), name.clone());
        }
        Some(name)
    }
}

impl Known {
    /// The row of a model, if it is remembered. The same name can be of the fleet and of the cloud.
    fn row(&self, model: &str, is_cloud: bool) -> Option<Arc<str>> {
        self.spellings[usize::from(is_cloud)].get(model).cloned()
    }

    fn has_room_for(&self, name: &str) -> bool {
        self.names.len() < MAX_MODELS || self.names.contains(name)
    }

    fn remembers_more(&self, is_cloud: bool) -> bool {
        self.spellings[usize::from(is_cloud)].len() < MAX_SPELLINGS
    }
}
