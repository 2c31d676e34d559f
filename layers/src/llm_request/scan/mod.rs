//! One pass over the bytes of a JSON request, in pieces of any size.
//!
//! The scanner and Go's `encoding/json`, which will read the same bytes behind it, must never
//! disagree on what the gateway acts on. Go matches keys without regard to case and lets the
//! last of several win; so a key that the gateway acts on, standing twice or in another case,
//! is refused. It is stricter than Go in three further things: text must be UTF-8, nesting
//! ends at [`MAX_DEPTH`], and a name of a model must not look like a path trick.
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
use self::visit::Kind;
use super::KeepAlive;

pub use self::error::ScanError;
pub use self::json::MAX_DEPTH;
pub use self::keys::Keys;

/// The longest name of a model that is looked at, in bytes; Ollama's own end at 593.
pub const MAX_NAME_BYTES: usize = 1024;

/// What was found in a body.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Scanned {
    /// The model's name, where the operation has it; `None` if it is missing, null or empty.
    pub model: Option<Arc<str>>,
    /// Whether the answer is to be a stream, if the request says so.
    pub stream: Option<bool>,
    /// How long the model is to stay in memory.
    pub keep_alive: Option<KeepAlive>,
    /// The context length in tokens (`options.num_ctx`).
    pub num_ctx: Option<u64>,
    /// The longest answer in tokens (`max_tokens` or `options.num_predict`).
    pub max_tokens: Option<u64>,
    /// Whether all that the operation could work on is missing, null or empty.
    pub has_no_prompt: bool,
    /// Where the value of `model` stands in the body, if the key is there.
    pub model_value: Option<Range<u64>>,
    /// The position right after the opening brace.
    pub members_begin: u64,
    /// Whether the object has no members at all.
    pub is_empty_object: bool,
}

/// Reads a body and remembers what the gateway acts on.
#[derive(Debug)]
pub struct Scanner {
    json: Json,
    collector: Collector,
}

impl Scanner {
    /// A scanner for a body in which the gateway acts on `keys`.
    pub fn new(keys: Keys) -> Self {
        Self {
            json: Json::new(),
            collector: Collector::new(keys),
        }
    }

    /// Reads the next piece. After the first whole value all is ignored.
    ///
    /// # Errors
    /// The input cannot become what it should be, whatever follows.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), ScanError> {
        self.json.feed(piece, &mut self.collector)
    }

    /// Whether the value is complete, so that nothing that follows matters.
    pub fn is_done(&self) -> bool {
        self.json.is_done()
    }

    /// What was found, at the end of the input.
    ///
    /// # Errors
    /// The input ended too early, is no object, or contradicts itself.
    pub fn finish(mut self) -> Result<Scanned, ScanError> {
        self.json.finish(&mut self.collector)?;
        match self.json.top() {
            Some(Kind::Object) => self.collector.finish(),
            Some(found) => Err(ScanError::NotAnObject {
                found: found.name(),
            }),
            None => Err(ScanError::Empty),
        }
    }
}
