//! Whether a server has room for one more model, learned from what was in its memory together.

/// What fits into the memory of a server.
///
/// No server tells how many models it keeps. Models that were in memory together fit. A model that
/// disappeared before it had expired, when another was loaded, shows that both together do not
/// fit. Between the two nothing is known, and the model is assumed to fit: trying costs at most one
/// unload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    fits: Load,
    does_not_fit: Option<Load>,
}

/// A number of models and their size together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// The number of models.
    pub(crate) models: usize,
    /// Their size in memory, in bytes; 0 if it is not known.
    pub(crate) bytes: u64,
}

/// Whether there is room for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// As much was in memory before.
    Free,
    /// It was not tried yet.
    Unknown,
    /// Another model has to go.
    Full,
}

impl Load {
    /// This load with one more model.
    pub(crate) fn with(self, bytes: u64) -> Self {
        Self {
            models: self.models + 1,
            bytes: self.bytes.saturating_add(bytes),
        }
    }
}

impl Memory {
    /// Whether this load fits.
    pub(crate) fn room_for(&self, load: Load) -> Room {
        let may_fit = |limit: Load| {
            load.models < limit.models || (limit.bytes > 0 && load.bytes < limit.bytes)
        };
        if load.models <= self.fits.models && load.bytes <= self.fits.bytes {
            Room::Free
        } else if self.does_not_fit.is_none_or(may_fit) {
            Room::Unknown
        } else {
            Room::Full
        }
    }

    /// The most that was in memory together.
    pub(crate) fn fits(&self) -> Load {
        self.fits
    }

    /// What did not fit together.
    pub(crate) fn does_not_fit(&self) -> Option<Load> {
        self.does_not_fit
    }

    /// Records that these models are in memory together.
    pub(crate) fn holds(&mut self, load: Load) {
        self.fits.models = self.fits.models.max(load.models);
        self.fits.bytes = self.fits.bytes.max(load.bytes);
        let is_wrong = |limit: Load| {
            load.models >= limit.models && (limit.bytes == 0 || load.bytes >= limit.bytes)
        };
        if self.does_not_fit.is_some_and(is_wrong) {
            self.does_not_fit = None;
        }
    }

    /// Records that a model was unloaded to make room: this load did not fit.
    pub(crate) fn overflowed(&mut self, load: Load) {
        if load.models < 2 {
            return;
        }
        self.does_not_fit = Some(load);
        self.fits.models = self.fits.models.min(load.models - 1);
        self.fits.bytes = self.fits.bytes.min(load.bytes.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(models: usize, bytes: u64) -> Load {
        Load { models, bytes }
    }

    #[test]
    fn room_is_assumed_until_a_model_had_to_go() {
        let mut memory = Memory::default();
        assert_ne!(memory.room_for(load(3, 30)), Room::Full);
        memory.holds(load(1, 10));
        memory.overflowed(load(2, 20));
        assert_ne!(memory.room_for(load(1, 12)), Room::Full);
        assert_eq!(memory.room_for(load(2, 20)), Room::Full);
        assert_eq!(memory.room_for(load(2, 25)), Room::Full);
    }

    #[test]
    fn smaller_models_are_tried_where_larger_ones_did_not_fit() {
        let mut memory = Memory::default();
        memory.overflowed(load(2, 20));
        assert_ne!(memory.room_for(load(2, 8)), Room::Full);
        memory.overflowed(load(2, 8));
        assert_eq!(memory.room_for(load(2, 8)), Room::Full);
    }

    #[test]
    fn a_larger_memory_than_known_is_learned() {
        let mut memory = Memory::default();
        memory.overflowed(load(2, 20));
        memory.holds(load(2, 24));
        assert_ne!(memory.room_for(load(2, 22)), Room::Full);
    }

    #[test]
    fn without_sizes_only_the_number_counts() {
        let mut memory = Memory::default();
        memory.overflowed(load(2, 0));
        assert_eq!(memory.room_for(load(2, 0)), Room::Full);
        assert_ne!(memory.room_for(load(1, 0)), Room::Full);
    }
}
