//! The models that may be label values. Their number is limited, because clients choose the names.

use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashSet;
use opentelemetry::StringValue;

use super::attributes::bounded;
use super::fleet_view::View;
use super::names;

/// Limit of models with their own label, and with their own rows of usage; all others are
/// [`names::OTHER`].
pub(crate) const MAX_MODELS: usize = 200;

/// The accepted names. A name is accepted if the fleet has the model or, without a fleet, if a
/// backend has responded for it. It is then kept.
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

    /// The label of a model; `was_served` means that a backend has just responded for it.
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
        if admitted.len() >= MAX_MODELS || model.len() > bounded(model).len() {
            return None;
        }
        let name: Arc<str> = model.into();
        admitted.insert(name.clone());
        Some(name)
    }
}
