//! The models that may be label values: a bounded set, because clients choose the names.

use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashSet;
use opentelemetry::StringValue;

use super::attributes::bounded;
use super::names;
use super::observed::View;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ollama::fleet::{BackendStatus, QueueStatus};
    use crate::telemetry::FleetView;

    struct OneModel;

    impl FleetView for OneModel {
        fn status(&self) -> Vec<BackendStatus> {
            Vec::new()
        }
        fn queue_status(&self) -> Vec<QueueStatus> {
            Vec::new()
        }
        fn knows(&self, model: &str) -> bool {
            model == "llama3"
        }
    }

    #[test]
    fn a_model_that_no_backend_has_answered_for_is_other() {
        let names = ModelNames::new(View::default());
        assert_eq!(names.label("made-up", false).as_str(), "other");
        assert_eq!(names.label("llama3", true).as_str(), "llama3");
        assert_eq!(names.label("llama3", false).as_str(), "llama3");
    }

    #[test]
    fn the_catalogue_decides_once_there_is_one() {
        let fleet = View::default();
        let names = ModelNames::new(fleet.clone());
        assert!(fleet.set(Arc::new(OneModel)).is_ok());
        assert_eq!(names.label("llama3", false).as_str(), "llama3");
        assert_eq!(names.label("LLAMA3", true).as_str(), "other");
    }

    #[test]
    fn the_number_of_labels_is_bounded() {
        let names = ModelNames::new(View::default());
        for n in 0..MOST + 50 {
            names.label(&format!("model-{n}"), true);
        }
        assert_eq!(names.label("model-0", false).as_str(), "model-0");
        let last = format!("model-{MOST}");
        assert_eq!(names.label(&last, true).as_str(), "other");
    }
}
