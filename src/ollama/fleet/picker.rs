//! Least in flight: the choice and the place taken, in one critical section.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what each backend works on.
#[derive(Debug)]
pub(super) struct Picker {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_flight: Vec<usize>,
    /// Where the search begins, so that equals take turns.
    turn: usize,
}

/// A place at a backend, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    picker: Arc<Picker>,
    index: usize,
}

impl Picker {
    pub(super) fn new(backends: usize) -> Self {
        Self {
            state: Mutex::new(State {
                in_flight: vec![0; backends],
                turn: 0,
            }),
        }
    }

    /// Takes a place at the candidate that works on least.
    pub(super) fn pick(self: &Arc<Self>, candidates: &[usize]) -> (usize, Slot) {
        let mut state = self.state();
        state.turn = state.turn.wrapping_add(1);
        let start = state.turn % candidates.len().max(1);
        let in_turn = candidates[start..].iter().chain(&candidates[..start]);
        let index = in_turn
            .copied()
            .min_by_key(|&index| state.in_flight[index])
            .unwrap_or_default();
        state.in_flight[index] += 1;
        let picker = self.clone();
        (index, Slot { picker, index })
    }

    /// Takes a place at a certain backend.
    pub(super) fn take(self: &Arc<Self>, index: usize) -> Slot {
        self.state().in_flight[index] += 1;
        let picker = self.clone();
        Slot { picker, index }
    }

    pub(super) fn in_flight(&self) -> Vec<usize> {
        self.state().in_flight.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.picker.state().in_flight[self.index] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_that_works_on_least_is_picked() {
        let picker = Arc::new(Picker::new(3));
        let _busy: Vec<_> = [0, 0, 2].map(|index| picker.take(index)).into();
        let (index, _slot) = picker.pick(&[0, 1, 2]);
        assert_eq!(index, 1);
        assert_eq!(picker.in_flight(), [2, 1, 1]);
    }

    #[test]
    fn equals_take_turns() {
        let picker = Arc::new(Picker::new(2));
        let mut seen: Vec<_> = (0..4).map(|_| picker.pick(&[0, 1]).0).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 0, 1, 1]);
    }

    #[test]
    fn a_slot_is_given_back_when_it_is_dropped() {
        let picker = Arc::new(Picker::new(1));
        drop(picker.pick(&[0]));
        assert_eq!(picker.in_flight(), [0]);
    }
}
