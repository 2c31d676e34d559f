//! The prefix cache of a simulated server.

use std::collections::VecDeque;

use foldhash::HashMap;

/// The prompt blocks that a model has processed lately; the least recently used are forgotten.
#[derive(Debug)]
pub(super) struct PrefixStore {
    capacity: usize,
    /// The time of the last use of each block.
    used: HashMap<u64, u64>,
    /// The uses, the oldest first; those of blocks that were used again later are void.
    order: VecDeque<(u64, u64)>,
    clock: u64,
}

impl PrefixStore {
    /// A cache of so many blocks.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            used: HashMap::default(),
            order: VecDeque::new(),
            clock: 0,
        }
    }

    /// The number of leading blocks that are in the cache.
    pub(super) fn matched(&self, blocks: &[u64]) -> usize {
        let known = blocks
            .iter()
            .take_while(|block| self.used.contains_key(block));
        known.count()
    }

    /// Adds the blocks of a prompt that was processed. A block outlives those that follow it.
    pub(super) fn add(&mut self, blocks: &[u64]) {
        for block in blocks.iter().rev() {
            self.clock += 1;
            self.used.insert(*block, self.clock);
            self.order.push_back((*block, self.clock));
        }
        while self.used.len() > self.capacity || self.order.len() > 4 * self.capacity {
            let Some((block, used)) = self.order.pop_front() else {
                return;
            };
            if self.used.get(&block) == Some(&used) {
                self.used.remove(&block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_blocks_are_forgotten_from_the_end_of_their_prompt() {
        let mut store = PrefixStore::new(4);
        store.add(&[1, 2]);
        store.add(&[3, 4]);
        store.add(&[1, 5]);
        assert_eq!(store.matched(&[1, 5]), 2);
        assert_eq!(store.matched(&[1, 2]), 1);
        assert_eq!(store.matched(&[3, 4]), 2);
        assert_eq!(store.matched(&[9, 1]), 0);
    }
}
