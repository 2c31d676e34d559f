//! Which prompts a server has probably in its prefix cache.
//!
//! A prompt is known by the chained hashes of its leading blocks: the hash of a block includes all
//! blocks before it, so a match of one block means a match of all before it.

use foldhash::HashSet;

/// The most blocks that are remembered for one server and model: two generations of this size.
const GENERATION: usize = 2048;

/// The blocks of prompts that a server has processed lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixCache {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl PrefixCache {
    /// The number of leading blocks that are in the cache.
    pub(crate) fn matched(&self, blocks: &[u64]) -> usize {
        if self.young.is_empty() && self.old.is_empty() {
            return 0;
        }
        blocks.partition_point(|block| self.young.contains(block) || self.old.contains(block))
    }

    /// Adds the blocks of a prompt.
    pub(crate) fn insert(&mut self, blocks: &[u64]) {
        for block in blocks {
            self.young.insert(*block);
            if self.young.len() >= GENERATION {
                self.old = std::mem::take(&mut self.young);
            }
        }
    }

    /// Forgets all blocks, because the model was unloaded.
    pub(crate) fn clear(&mut self) {
        self.young = HashSet::default();
        self.old = HashSet::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_blocks_match_and_old_ones_are_forgotten() {
        let mut cache = PrefixCache::default();
        assert_eq!(cache.matched(&[1, 2, 3]), 0);
        cache.insert(&[1, 2, 3]);
        assert_eq!(cache.matched(&[1, 2, 3, 4]), 3);
        assert_eq!(cache.matched(&[9]), 0);
        let others: Vec<u64> = (100..100 + 2 * GENERATION as u64).collect();
        cache.insert(&others);
        assert_eq!(cache.matched(&[1, 2, 3]), 0);
        assert!(cache.young.len() + cache.old.len() <= 2 * GENERATION);
        cache.clear();
        assert_eq!(cache.matched(&others), 0);
    }
}
