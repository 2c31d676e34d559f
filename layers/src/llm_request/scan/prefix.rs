//! The leading blocks of a prompt as hashes, by which two prompts can be compared.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;

/// The length of a block in bytes: about 512 tokens of text.
const BLOCK: usize = 2 << 10;

/// How a prompt begins: a hash for each of its leading blocks of 2 KiB. The hash of a block
/// includes all blocks before it, so two prompts with the same hash are the same up to there.
///
/// The blocks are the raw bytes of the body from the first of the members `messages`, `prompt`,
/// `input`, `system` and `instructions`. A conversation grows at its end, so its next request has
/// the same first blocks. Two prompts with the same hash by chance, or a prompt that is written
/// in another way, only lead to a wrong guess of what a server has in its cache.
///
/// ```
/// use llamatower_layers::llm_request::scan::{Keys, Scanner};
/// use llamatower_layers::{Dialect, Operation};
///
/// let first = "Why is the sky blue? ".repeat(200);
/// let prefix_of = |prompt: &str| {
///     let keys = Keys::of(Dialect::Ollama, Operation::Generate);
///     let mut scanner = Scanner::new(keys).with_prefix_blocks(64);
///     scanner.feed(format!(r#"{{"prompt":"{prompt}"}}"#).as_bytes())?;
///     Ok::<_, llamatower_layers::llm_request::scan::ScanError>(scanner.finish()?.prefix)
/// };
/// let (one, longer) = (prefix_of(&first)?, prefix_of(&(first.clone() + &"And the sea? ".repeat(200)))?);
/// assert_eq!(one.blocks().len(), 2);
/// assert!(longer.blocks().starts_with(one.blocks()));
/// # Ok::<_, llamatower_layers::llm_request::scan::ScanError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptPrefix {
    /// `None` without an allocation, which is the usual case.
    blocks: Option<Arc<[u64]>>,
    prompt_bytes: u64,
}

impl PromptPrefix {
    /// The hashes of the leading blocks. A prompt below 2 KiB has none.
    pub fn blocks(&self) -> &[u64] {
        self.blocks.as_deref().unwrap_or_default()
    }

    /// The part of the prompt that these blocks cover, from 0 to 1.
    pub fn part_of_prompt(&self) -> f64 {
        match self.blocks().len() {
            0 => 0.0,
            blocks => (blocks * BLOCK) as f64 / self.prompt_bytes as f64,
        }
    }
}

/// Hashes the blocks of a body that comes in pieces of any size.
#[derive(Debug)]
pub(super) struct Hashes {
    max_blocks: usize,
    blocks: Vec<u64>,
    /// The beginning of a block whose end has not come yet.
    partial: Vec<u8>,
}

impl Hashes {
    pub(super) fn new(max_blocks: usize) -> Self {
        Self {
            max_blocks,
            blocks: Vec::new(),
            partial: Vec::new(),
        }
    }

    /// Adds the next bytes of the content. The last ones are not kept if nothing `may_follow`.
    pub(super) fn add(&mut self, mut bytes: &[u8], may_follow: bool) {
        if self.blocks.len() >= self.max_blocks {
            return;
        }
        if !self.partial.is_empty() {
            let missing = BLOCK - self.partial.len();
            let (end, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(end);
            bytes = rest;
            if self.partial.len() < BLOCK {
                return;
            }
            let whole = std::mem::take(&mut self.partial);
            self.add_block(&whole);
        }
        let (whole, rest) = bytes.as_chunks::<BLOCK>();
        for block in whole {
            if self.blocks.len() >= self.max_blocks {
                return;
            }
            self.add_block(block);
        }
        if may_follow && !rest.is_empty() && self.blocks.len() < self.max_blocks {
            self.partial.reserve_exact(BLOCK);
            self.partial.extend_from_slice(rest);
        }
    }

    fn add_block(&mut self, block: &[u8]) {
        // The same seed in every process, so that all replicas of a gateway agree.
        let mut hasher = FixedState::default().build_hasher();
        hasher.write_u64(self.blocks.last().copied().unwrap_or_default());
        hasher.write(block);
        self.blocks.push(hasher.finish());
    }

    /// The result. `content` is the part of the body that the prompt takes.
    pub(super) fn finish(mut self, content: Range<u64>) -> PromptPrefix {
        let prompt_bytes = content.end.saturating_sub(content.start);
        let whole = usize::try_from(prompt_bytes / BLOCK as u64).unwrap_or(usize::MAX);
        // What follows the prompt was hashed too.
        self.blocks.truncate(whole);
        PromptPrefix {
            blocks: (!self.blocks.is_empty()).then(|| self.blocks.into()),
            prompt_bytes,
        }
    }
}
