//! The models that may be label values: a bounded set, because clients choose the names.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashSet;
use opentelemetry::StringValue;

use super::{bounded, names};

/// How many models have labels of their own; all others are [`names::OTHER`].
pub(super) const MOST: usize = 200;

type IsKnown = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The names that have been let in. A name gets in if the catalogue knows it or, without a
/// catalogue, when a backend has answered for it; then it stays.
#[derive(Default)]
pub(super) struct ModelNames {
    admitted: RwLock<HashSet<Arc<str>>>,
    is_known: RwLock<Option<IsKnown>>,
}

impl ModelNames {
    pub(super) fn set_known(&self, is_known: IsKnown) {
        *self
            .is_known
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(is_known);
    }

    /// The label for a model; `was_served` says that a backend has just answered for it.
    pub(super) fn label(&self, model: &str, was_served: bool) -> StringValue {
        match self.admitted(model, was_served) {
            Some(name) => name.into(),
            None => names::OTHER.into(),
        }
    }

    /// The label for a model, if it has one of its own.
    pub(super) fn admitted(&self, model: &str, was_served: bool) -> Option<Arc<str>> {
        let admitted = self
            .admitted
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(model)
            .cloned();
        admitted.or_else(|| self.admit(model, was_served))
    }

    fn admit(&self, model: &str, was_served: bool) -> Option<Arc<str>> {
        let is_known = self
            .is_known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if !is_known.map_or(was_served, |is_known| is_known(model)) {
            return None;
        }
        let mut admitted = self
            .admitted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if admitted.len() >= MOST || model.len() > bounded(model).len() {
            return None;
        }
        let name: Arc<str> = model.into();
        admitted.insert(name.clone());
        Some(name)
    }
}

impl fmt::Debug for ModelNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelNames").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_no_backend_has_answered_for_is_other() {
        let names = ModelNames::default();
        assert_eq!(names.label("made-up", false).as_str(), "other");
        assert_eq!(names.label("llama3", true).as_str(), "llama3");
        assert_eq!(names.label("llama3", false).as_str(), "llama3");
    }

    #[test]
    fn the_catalogue_decides_once_there_is_one() {
        let names = ModelNames::default();
        names.set_known(Arc::new(|model| model == "llama3"));
        assert_eq!(names.label("llama3", false).as_str(), "llama3");
        assert_eq!(names.label("LLAMA3", true).as_str(), "other");
    }

    #[test]
    fn the_number_of_labels_is_bounded() {
        let names = ModelNames::default();
        for n in 0..MOST + 50 {
            names.label(&format!("model-{n}"), true);
        }
        assert_eq!(names.label("model-0", false).as_str(), "model-0");
        let last = format!("model-{MOST}");
        assert_eq!(names.label(&last, true).as_str(), "other");
    }
}
