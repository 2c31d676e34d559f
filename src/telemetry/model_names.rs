//! The models that may be label values: a bounded set, because clients choose the names.

use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashSet;
use opentelemetry::StringValue;

use super::attributes::bounded;
use super::fleet_view::View;
use super::names;

/// How many models have labels of their own; all others are [`names::OTHER`].
pub(super) const MOST: usize = 200;

/// The names that have been let in. A name gets in if the fleet knows it or, without a fleet, when
/// a backend has answered for it; then it stays.
pub(super) struct ModelNames {
    admitted: RwLock<HashSet<Arc<str>>>,
    fleet: View,
}

impl ModelNames {
    pub(super) fn new(fleet: View) -> Self {
        Self {
            admitted: RwLock::default(),
            fleet,
        }
    }

    /// The label for a model; `was_served` says that a backend has just answered for it.
    pub(super) fn label(&self, model: &str, was_served: bool) -> StringValue {
        let admitted = self.admitted.read().unwrap_or_else(PoisonError::into_inner);
        let known = admitted.get(model).cloned();
        drop(admitted);
        match known.or_else(|| self.admit(model, was_served)) {
            Some(name) => name.into(),
            None => names::OTHER.into(),
        }
    }

    fn admit(&self, model: &str, was_served: bool) -> Option<Arc<str>> {
        let fleet = self.fleet.get();
        if !fleet.map_or(was_served, |fleet| fleet.knows(model)) {
            return None;
        }
        let mut admitted = (self.admitted.write()).unwrap_or_else(PoisonError::into_inner);
        if admitted.len() >= MOST || model.len() > bounded(model).len() {
            return None;
        }
        let name: Arc<str> = model.into();
        admitted.insert(name.clone());
        Some(name)
    }
}
