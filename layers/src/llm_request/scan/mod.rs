//! One pass over the bytes of a JSON request, in pieces of any size.
//!
//! The scanner and Go's `encoding/json`, which reads the same bytes later, must never disagree on
//! what the gateway uses. Go matches keys case-insensitively, and the last of several wins. So a
//! key that the gateway uses is refused if it occurs twice or in another case. The scanner is
//! stricter than Go in three other points: text must be UTF-8, nesting is limited to [`MAX_DEPTH`],
//! and a model's name must not contain path traversal.
//!
//! ```
//! use llamatower_layers::llm_request::scan::{Keys, Scanner};
//! use llamatower_layers::{Dialect, Operation};
//!
//! let mut scanner = Scanner::new(Keys::of(Dialect::Ollama, Operation::Chat));
//! scanner.feed(br#"{"messages":[{"role":"user","content":"hel"#)?;
//! scanner.feed(br#"lo"}],"stream":false,"model":"llama3"}"#)?;
//! let found = scanner.finish()?;
//! assert_eq!(found.model.as_deref(), Some("llama3"));
//! assert_eq!(found.stream, Some(false));
//! assert!(!found.has_no_prompt);
//! # Ok::<_, llamatower_layers::llm_request::scan::ScanError>(())
//! ```

mod collect;
mod error;
mod json;
mod keys;
mod prefix;
mod text;
mod utf8;
mod visit;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

pub(super) use self::collect::is_plausible_name;

use self::collect::Collector;
use self::json::Json;
use self::prefix::Hashes;
use self::visit::Kind;
use super::edit::{EditPlaces, moved_range};
use super::output::OutputLimits;
use super::{KeepAlive, Needs};

pub use self::error::ScanError;
pub use self::json::MAX_DEPTH;
pub use self::keys::Keys;
pub use self::prefix::PromptPrefix;

/// Longest model name that is examined, in bytes; Ollama's own limit is 593.
pub const MAX_NAME_BYTES: usize = 1024;

/// The result of the scan.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Scanned {
    /// The model's name; `None` if it is missing, null or empty, or if the operation has none.
    pub model: Option<Arc<str>>,
    /// Whether the response should be a stream, if set.
    pub stream: Option<bool>,
    /// How long the model should stay in memory.
    pub keep_alive: Option<KeepAlive>,
    /// The context length in tokens (`options.num_ctx`), at most 2^31 - 1; `None` if it is not set
    /// or below 4, Ollama's smallest one ([`EditPlaces::corrects_num_ctx`]).
    pub num_ctx: Option<u64>,
    /// Limit of the response in tokens (`max_tokens`, `max_completion_tokens`, `max_output_tokens` or
    /// `options.num_predict`).
    pub max_tokens: Option<u64>,
    /// Whether the operation has no input: it is missing, null or empty.
    pub has_no_prompt: bool,
    /// The bytes of images and audio in the prompt.
    pub image_bytes: u64,
    /// The bytes of the JSON, up to the end of the object.
    pub json_bytes: u64,
    /// What the request needs of its model beside text.
    pub needs: Needs,
    /// The byte range of the value of `model` in the body, if the key is there.
    pub model_value: Option<Range<u64>>,
    /// The position right after the opening brace.
    pub members_begin: u64,
    /// Whether the object has no members.
    pub is_empty_object: bool,
    /// How the prompt begins; empty without [`Scanner::with_prefix_blocks`].
    pub prefix: PromptPrefix,
    /// Where the values stand that can be changed.
    pub places: EditPlaces,
    /// The limits of the response in the body.
    pub(super) output: OutputLimits,
}

impl Scanned {
    /// Moves the places: `replaced` was replaced by a text of this length.
    pub(super) fn move_places(&mut self, replaced: &Range<u64>, length: u64) {
        self.places = std::mem::take(&mut self.places).after_splice(replaced, length);
        let model = self.model_value.take();
        self.model_value = model.map(|model| moved_range(model, replaced, length));
        self.is_empty_object = false;
    }
}

/// Scans a body and stores the values that the gateway uses.
#[derive(Debug)]
pub struct Scanner {
    json: Json,
    collector: Collector,
    hashes: Option<Hashes>,
}

impl Scanner {
    /// A scanner for a body in which the gateway uses `keys`.
    pub fn new(keys: Keys) -> Self {
        Self {
            json: Json::new(),
            collector: Collector::new(keys),
            hashes: None,
        }
    }

    /// Also finds the [prefix](PromptPrefix) of the prompt, of at most so many blocks; 0 by
    /// default.
    #[must_use]
    pub fn with_prefix_blocks(mut self, max_blocks: usize) -> Self {
        self.hashes = (max_blocks > 0).then(|| Hashes::new(max_blocks));
        self
    }

    /// Whether the gateway acts on the keys that limit the response: a request with one of them
    /// twice, in another case or of another type than a number is refused. By default it makes a
    /// guess from them.
    #[must_use]
    pub fn with_output_limits(mut self, acts: bool) -> Self {
        if acts {
            self.collector.limit_output();
        }
        self
    }

    /// Scans the next piece. Everything after the first complete value is ignored.
    ///
    /// # Errors
    /// The input is invalid, whatever follows.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), ScanError> {
        let begin = self.json.offset();
        self.json.feed(piece, &mut self.collector)?;
        if let Some(hashes) = &mut self.hashes
            && let Some(content) = self.collector.content()
        {
            let before = content.start.saturating_sub(begin);
            // The content begins within this piece or before it.
            let bytes = usize::try_from(before)
                .ok()
                .and_then(|from| piece.get(from..));
            hashes.add(bytes.unwrap_or_default(), !self.json.is_done());
        }
        Ok(())
    }

    /// Whether the value is complete; what follows does not matter.
    pub fn is_done(&self) -> bool {
        self.json.is_done()
    }

    /// The result, at the end of the input.
    ///
    /// # Errors
    /// The input ended too early, is not an object, or is ambiguous.
    pub fn finish(mut self) -> Result<Scanned, ScanError> {
        self.json.finish(&mut self.collector)?;
        match self.json.top() {
            Some(Kind::Object) => {
                let content = self.collector.content().unwrap_or_default();
                let mut found = self.collector.finish()?;
                found.prefix = self
                    .hashes
                    .map(|hashes| hashes.finish(content))
                    .unwrap_or_default();
                Ok(found)
            }
            Some(found) => Err(ScanError::NotAnObject {
                found: found.name(),
            }),
            None => Err(ScanError::Empty),
        }
    }
}
