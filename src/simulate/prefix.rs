//! The prefix cache of a simulated server.

use std::collections::VecDeque;

use foldhash::HashMap;

/// The blocks that fit: at 512 tokens a block this is two million tokens, a large host cache.
const CAPACITY: usize = 4096;

/// The prompt blocks that a model has processed lately; the oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct PrefixStore {
    blocks: HashMap<u64, u64>,
    order: VecDeque<(u64, u64)>,
    clock: u64,
}

impl PrefixStore {
    /// The part of these blocks, 0 to 1, that does not have to be computed. All of them are in the
    /// cache afterwards.
    pub(super) fn use_blocks(&mut self, blocks: &[u64]) -> f64 {
        let known = blocks
            .iter()
            .take_while(|block| self.blocks.contains_key(block));
        let known = known.count();
        for block in blocks {
            self.clock += 1;
            self.blocks.insert(*block, self.clock);
            self.order.push_back((*block, self.clock));
        }
        while self.blocks.len() > CAPACITY || self.order.len() > 4 * CAPACITY {
            let Some((block, used)) = self.order.pop_front() else {
                break;
            };
            if self.blocks.get(&block) == Some(&used) {
                self.blocks.remove(&block);
            }
        }
        match blocks.len() {
            0 => 0.0,
            all => known as f64 / all as f64,
        }
    }
}
