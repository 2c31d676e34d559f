//! Least in flight: who works on what, and who has a slot left.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llamatower_layers::ModelName;

/// Counts what each backend works on.
#[derive(Debug)]
pub(super) struct Picker {
    /// How many requests each backend works on at a time for one model, as in Ollama's
    /// `OLLAMA_NUM_PARALLEL`.
    slots: Vec<Option<NonZeroUsize>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_flight: Vec<usize>,
    /// Only where slots are counted.
    by_model: HashMap<(usize, ModelName), usize>,
    /// Where the search begins, so that equals take turns.
    turn: usize,
}

/// A place at a backend, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    picker: Arc<Picker>,
    index: usize,
    /// Whose slot it holds, where these are counted.
    model: Option<ModelName>,
}

impl Picker {
    /// One backend for each of `slots`; `None` is for one whose slots are not counted.
    pub(super) fn new(slots: Vec<Option<NonZeroUsize>>) -> Self {
        Self {
            state: Mutex::new(State {
                in_flight: vec![0; slots.len()],
                by_model: HashMap::new(),
                turn: 0,
            }),
            slots,
        }
    }

    /// Takes a place at the candidate that works on least, if one of them has a slot for the
    /// model. Requests without a model need none.
    pub(super) fn pick(
        self: &Arc<Self>,
        candidates: &[usize],
        model: Option<&ModelName>,
    ) -> Option<Place> {
        let mut state = self.state();
        state.turn = state.turn.wrapping_add(1);
        let start = state.turn % candidates.len().max(1);
        let in_turn = candidates[start..].iter().chain(&candidates[..start]);
        let has_slot = |index: &usize| match (self.slots[*index], model) {
            (Some(slots), Some(model)) => {
                let held = state.by_model.get(&(*index, model.clone()));
                held.is_none_or(|held| *held < slots.get())
            }
            _ => true,
        };
        let index = in_turn
            .copied()
            .filter(has_slot)
            .min_by_key(|&index| state.in_flight[index])?;
        state.in_flight[index] += 1;
        let model = model.filter(|_| self.slots[index].is_some()).cloned();
        if let Some(model) = &model {
            *state.by_model.entry((index, model.clone())).or_default() += 1;
        }
        drop(state);
        Some(Place {
            picker: self.clone(),
            index,
            model,
        })
    }

    /// Takes a place at a certain backend, for what runs no model.
    pub(super) fn take(self: &Arc<Self>, index: usize) -> Place {
        self.state().in_flight[index] += 1;
        Place {
            picker: self.clone(),
            index,
            model: None,
        }
    }

    /// How many requests each backend works on.
    pub(super) fn in_flight(&self) -> Vec<usize> {
        self.state().in_flight.clone()
    }

    /// How many slots each backend has for one model; `None` where they are not counted.
    pub(super) fn slots(&self) -> &[Option<NonZeroUsize>] {
        &self.slots
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.picker.state();
        state.in_flight[self.index] -= 1;
        let Some(model) = self.model.take() else {
            return;
        };
        let key = (self.index, model);
        if let Some(held) = state.by_model.get_mut(&key) {
            *held -= 1;
            if *held == 0 {
                state.by_model.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn picker(slots: &[usize]) -> Arc<Picker> {
        let slots = slots.iter().map(|slots| NonZeroUsize::new(*slots));
        Arc::new(Picker::new(slots.collect()))
    }

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    #[test]
    fn the_backend_that_works_on_least_is_picked() {
        let picker = picker(&[0, 0, 0]);
        let _busy: Vec<_> = [0, 0, 2].map(|index| picker.take(index)).into();
        let place = picker.pick(&[0, 1, 2], None).unwrap();
        assert_eq!(place.index(), 1);
        assert_eq!(picker.in_flight(), [2, 1, 1]);
    }

    #[test]
    fn equals_take_turns() {
        let picker = picker(&[0, 0]);
        let places: Vec<_> = (0..4).filter_map(|_| picker.pick(&[0, 1], None)).collect();
        let mut seen: Vec<_> = places.iter().map(Place::index).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 0, 1, 1]);
    }

    #[test]
    fn slots_are_those_of_a_backend_and_a_model_and_come_back() {
        let picker = picker(&[1, 2]);
        let (small, large) = (model("small"), model("large"));
        let mut held: Vec<_> = (0..3)
            .filter_map(|_| picker.pick(&[0, 1], Some(&small)))
            .collect();
        assert_eq!(picker.in_flight(), [1, 2]);
        assert!(picker.pick(&[0, 1], Some(&small)).is_none());
        assert!(picker.pick(&[0], Some(&large)).is_some());
        assert!(picker.pick(&[0], None).is_some());
        held.pop();
        assert!(picker.pick(&[0, 1], Some(&small)).is_some());
        drop(held);
        assert_eq!(picker.in_flight(), [0, 0]);
        assert!(picker.state().by_model.is_empty());
    }
}
