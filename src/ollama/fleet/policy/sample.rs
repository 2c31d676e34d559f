//! Which servers are compared for a request: all that have the model, or a few of many.
//!
//! To examine every server for each request takes too long where there are hundreds. Of a few
//! random ones the best is almost as good as the best of all ("the power of two choices"): with
//! half of the servers busy, one of eight is free in 255 of 256 cases.

use std::collections::VecDeque;

use super::ServerId;
use super::model::Model;

/// Up to so many servers that have the model are all compared.
const ALL: usize = 64;
/// Of more servers, so many random ones that have the model in memory are compared, and so many of
/// all that have it.
const RANDOM: usize = 8;
/// The servers on which something has changed last are compared too: a slot may have become free
/// there.
const CHANGED: usize = 4;

/// Chooses the servers that are compared.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    random: fastrand::Rng,
    changed: VecDeque<ServerId>,
    /// The memory of the last sample, which is used again.
    sample: Vec<usize>,
}

impl Sampler {
    /// A sampler whose choices depend on the seed alone.
    pub(super) fn with_seed(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            ..Self::default()
        }
    }

    /// Notes that a slot may have become free on a server.
    pub(super) fn note_change(&mut self, id: ServerId) {
        if self.changed.len() >= CHANGED {
            self.changed.pop_front();
        }
        self.changed.push_back(id);
    }

    /// The indexes of the lanes to compare for a request; `None` for all. To be given
    /// [back](Self::take_back).
    pub(super) fn sample(&mut self, model: &Model) -> Option<Vec<usize>> {
        let lanes = model.lanes.len();
        if lanes <= ALL {
            return None;
        }
        let mut sample = std::mem::take(&mut self.sample);
        sample.clear();
        let random = &mut self.random;
        let changed = self.changed.iter().copied();
        let copies = model.copies();
        let copies = (0..RANDOM).filter_map(|_| random.choice(copies).copied());
        for id in changed.chain(copies) {
            if let Some(at) = model.position(id) {
                add(&mut sample, at);
            }
        }
        for _ in 0..RANDOM {
            add(&mut sample, self.random.usize(..lanes));
        }
        Some(sample)
    }

    /// Keeps the memory of a sample for the next one.
    pub(super) fn take_back(&mut self, sample: Vec<usize>) {
        self.sample = sample;
    }
}

fn add(sample: &mut Vec<usize>, lane: usize) {
    if !sample.contains(&lane) {
        sample.push(lane);
    }
}
