//! Collects the values that the gateway needs.

use std::ops::Range;
use std::sync::Arc;

use super::keys::{Key, Keys, Seen};
use super::text::{keep_alive_seconds, keep_alive_text, unescape};
use super::visit::{Kept, Kind, Value, Visitor};
use super::{KeepAlive, MAX_NAME_BYTES, ScanError, Scanned};

/// The longest known key if each of its characters is escaped.
const KEY_BYTES: usize = 6 * 16;

#[derive(Debug)]
pub(super) struct Collector {
    keys: Keys,
    seen: Seen,
    // The keys of the current values, in the body and in its options.
    current: [Option<Key>; 2],
    found: Scanned,
    name: Option<Arc<str>>,
    has_content: bool,
    /// From the beginning of the first part of the prompt to the end of the last one so far.
    content: Option<Range<u64>>,
    error: Option<ScanError>,
}

impl Collector {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            seen: Seen::default(),
            current: [None, None],
            found: Scanned::default(),
            name: None,
            has_content: false,
            content: None,
            error: None,
        }
    }

    pub(super) fn finish(mut self) -> Result<Scanned, ScanError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.found.model = self.found.model.or(self.name);
        self.found.has_no_prompt = !self.has_content;
        Ok(self.found)
    }

    /// The part of the body that the prompt takes, if it has begun; its end is that of the last
    /// whole value.
    pub(super) fn content(&self) -> Option<Range<u64>> {
        self.content.clone()
    }

    /// Only the first error is reported.
    fn fail(&mut self, error: ScanError) {
        self.error.get_or_insert(error);
    }

    fn current(&self, depth: u32) -> Option<Key> {
        match depth {
            1 => self.current[0],
            2 => self.current[1],
            _ => None,
        }
    }

    fn wrong_type(&mut self, key: Key, found: &'static str, expected: &'static str) {
        self.fail(ScanError::WrongType {
            key: key.text(),
            found,
            expected,
        });
    }

    fn name(&mut self, key: Key, value: Value<'_>) -> Option<Arc<str>> {
        let kept = match value {
            Value::String(kept) => kept,
            Value::Null => return None,
            other => {
                self.wrong_type(key, kind_of(other), "string");
                return None;
            }
        };
        let name = unescape(kept.raw);
        if kept.is_cut || !is_plausible_name(&name) {
            self.fail(ScanError::InvalidModelName);
            return None;
        }
        (!name.is_empty()).then(|| name.into())
    }
}

/// Whether a text may be looked up as a model's name: it has no control characters and no path
/// traversal.
pub(in crate::llm_request) fn is_plausible_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && (is_plain_name(name) || is_plausible_path(name))
}

/// Whether a name has no path, like most of Ollama's own models.
fn is_plain_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    !name.starts_with('.') && name.bytes().all(is_plain)
}

fn is_plausible_path(name: &str) -> bool {
    !name.contains(|c: char| c.is_control() || c == '\\')
        && !name.split('/').any(|part| matches!(part, "." | ".."))
}

fn kind_of(value: Value<'_>) -> &'static str {
    match value {
        Value::Null => Kind::Null,
        Value::Bool(_) => Kind::Bool,
        Value::Number(_) => Kind::Number,
        Value::String(_) => Kind::String,
        Value::Array { .. } => Kind::Array,
        Value::Object { .. } => Kind::Object,
    }
    .name()
}

fn number(kept: Kept<'_>) -> Option<f64> {
    let text = std::str::from_utf8(kept.raw)
        .ok()
        .filter(|_| !kept.is_cut)?;
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn tokens(value: Value<'_>) -> Option<u64> {
    match value {
        // As in Ollama, the fraction is cut off.
        Value::Number(kept) => number(kept).filter(|n| *n >= 0.0).map(|n| n as u64),
        _ => None,
    }
}

fn keep_alive(value: Value<'_>) -> Option<KeepAlive> {
    match value {
        Value::Null => None,
        Value::Number(kept) => Some(number(kept).map_or(KeepAlive::Unclear, keep_alive_seconds)),
        Value::String(kept) if !kept.is_cut => Some(keep_alive_text(&unescape(kept.raw))),
        _ => Some(KeepAlive::Unclear),
    }
}

fn is_content(value: Value<'_>) -> bool {
    match value {
        Value::Null => false,
        Value::String(kept) => kept.is_cut || !kept.raw.is_empty(),
        Value::Array { is_empty } => !is_empty,
        Value::Bool(_) | Value::Number(_) | Value::Object { .. } => true,
    }
}

impl Visitor for Collector {
    fn begin_key(&self, depth: u32) -> usize {
        match depth {
            1 => KEY_BYTES,
            2 if self.current[0] == Some(Key::Options) => KEY_BYTES,
            _ => 0,
        }
    }

    fn key(&mut self, depth: u32, kept: Kept<'_>) {
        let slot = depth as usize - 1;
        self.current[slot] = None;
        if kept.is_cut || depth == 2 && self.current[0] != Some(Key::Options) {
            return;
        }
        let exact = self.keys.find_exact(kept.raw, depth == 2);
        let (key, is_as_written) = match exact {
            Some(key) => (key, true),
            None => {
                let text = unescape(kept.raw);
                let Some(key) = self.keys.find(&text, depth == 2) else {
                    return;
                };
                (key, text == key.text())
            }
        };
        if (!self.seen.insert(key) || !is_as_written) && key.is_acted_on() {
            self.fail(ScanError::AmbiguousKey { key: key.text() });
        }
        self.current[slot] = Some(key);
    }

    fn begin_value(&mut self, depth: u32, at: u64) -> usize {
        let Some(key) = self.current(depth) else {
            return 0;
        };
        if self.content.is_none() && key.is_content() {
            self.content = Some(at..at);
        }
        key.kept_bytes()
    }

    fn value(&mut self, depth: u32, value: Value<'_>, span: Range<u64>) {
        if depth == 0 {
            self.found.members_begin = span.start + 1;
            self.found.is_empty_object = matches!(value, Value::Object { is_empty: true });
            return;
        }
        let Some(key) = self.current(depth) else {
            return;
        };
        if let Some(content) = self.content.as_mut().filter(|_| key.is_content()) {
            content.end = span.end;
        }
        match (key, value) {
            (Key::Model, _) => {
                self.found.model = self.name(key, value);
                self.found.model_value = Some(span);
            }
            (Key::Name | Key::Source, _) => self.name = self.name(key, value),
            (Key::Stream, Value::Bool(stream)) => self.found.stream = Some(stream),
            (Key::Stream, Value::Null) => {}
            (Key::Stream, other) => self.wrong_type(key, kind_of(other), "bool"),
            (Key::KeepAlive, _) => self.found.keep_alive = keep_alive(value),
            (Key::Prompt | Key::Messages | Key::Input, _) => {
                self.has_content |= is_content(value);
            }
            (Key::NumCtx, _) => self.found.num_ctx = tokens(value),
            (Key::MaxTokens | Key::NumPredict, _) => self.found.max_tokens = tokens(value),
            (Key::Options | Key::System | Key::Instructions, _) => {}
        }
    }
}
