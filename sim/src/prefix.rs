//! The prompt prefixes that a server has in its cache.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::engine::tokens_of;

/// The length of a block in bytes.
const BLOCK_BYTES: usize = 256;

/// A cache of prompt prefixes, in blocks of 64 tokens; the least recently used ones are dropped
/// first.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    max_blocks: usize,
    /// The time of the last use of a prefix, by the hash of all of its text.
    used: HashMap<u64, u64>,
    by_time: BTreeMap<u64, u64>,
    now: u64,
}

/// A prompt: the hashes of its prefixes, the shortest one first.
#[derive(Debug)]
pub(crate) struct Prefixes(Vec<u64>);

impl Prefixes {
    /// The prefixes of a prompt. `runner` is different for each load of a model, because a model
    /// that is unloaded loses its cache.
    pub(crate) fn of(runner: u64, prompt: &str) -> Self {
        let mut hash = DefaultHasher::new();
        runner.hash(&mut hash);
        let blocks = prompt.as_bytes().chunks_exact(BLOCK_BYTES);
        let prefixes = blocks.map(|block| {
            hash.write(block);
            hash.finish()
        });
        Self(prefixes.collect())
    }
}

impl PrefixCache {
    /// A cache of so many tokens.
    pub(crate) fn new(tokens: u64) -> Self {
        let max_blocks = tokens / tokens_of(BLOCK_BYTES);
        Self {
            max_blocks: usize::try_from(max_blocks).unwrap_or(usize::MAX),
            used: HashMap::new(),
            by_time: BTreeMap::new(),
            now: 0,
        }
    }

    /// The number of leading tokens that are in the cache.
    pub(crate) fn cached_tokens(&self, prompt: &Prefixes) -> u64 {
        let known = prompt
            .0
            .iter()
            .take_while(|hash| self.used.contains_key(hash));
        known.count() as u64 * tokens_of(BLOCK_BYTES)
    }

    /// Adds a prompt that was processed. A prefix outlives the longer ones that contain it.
    pub(crate) fn add(&mut self, prompt: &Prefixes) {
        for hash in prompt.0.iter().rev() {
            self.now += 1;
            if let Some(before) = self.used.insert(*hash, self.now) {
                self.by_time.remove(&before);
            }
            self.by_time.insert(self.now, *hash);
        }
        while self.used.len() > self.max_blocks {
            let Some((_, hash)) = self.by_time.pop_first() else {
                return;
            };
            self.used.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(parts: &[char]) -> Prefixes {
        let blocks = parts.iter().map(|c| c.to_string().repeat(BLOCK_BYTES));
        Prefixes::of(1, &blocks.collect::<String>())
    }

    #[test]
    fn only_the_leading_blocks_of_a_prompt_are_found() {
        let mut cache = PrefixCache::new(640);
        cache.add(&prompt(&['a', 'b', 'c']));
        assert_eq!(cache.cached_tokens(&prompt(&['a', 'b', 'x'])), 128);
        assert_eq!(cache.cached_tokens(&prompt(&['x', 'b', 'c'])), 0);
        let reloaded = Prefixes::of(2, &"a".repeat(BLOCK_BYTES));
        assert_eq!(cache.cached_tokens(&reloaded), 0);
    }

    #[test]
    fn the_least_recently_used_blocks_are_dropped_from_the_end_of_their_prompt() {
        let mut cache = PrefixCache::new(4 * 64);
        cache.add(&prompt(&['a', 'b']));
        cache.add(&prompt(&['c', 'd']));
        cache.add(&prompt(&['a', 'e']));
        assert_eq!(cache.cached_tokens(&prompt(&['a', 'e'])), 128);
        assert_eq!(cache.cached_tokens(&prompt(&['a', 'b'])), 64);
        assert_eq!(cache.cached_tokens(&prompt(&['c', 'd'])), 128);
        cache.add(&prompt(&['f']));
        assert_eq!(cache.cached_tokens(&prompt(&['c', 'd'])), 64);
    }
}
