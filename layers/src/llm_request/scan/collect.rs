//! Collects the values that the gateway needs.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use crate::llm_request::edit::OptionPlace;
use crate::llm_request::output::{Asked, Limit};

use super::keys::{Key, Keys, Seen};
use super::text::{keep_alive_seconds, keep_alive_text, unescape};
use super::visit::{Kept, Kind, Value, Visitor};
use super::{KeepAlive, MAX_NAME_BYTES, ScanError, Scanned};

/// The longest known key if each of its characters is escaped.
const KEY_BYTES: usize = 6 * 21;

#[derive(Debug)]
pub(super) struct Collector {
    keys: Keys,
    /// Whether the gateway acts on the limits of responses.
    limits_output: bool,
    seen: Seen,
    // The keys of the current values, in the body and in its options.
    current: [Option<Key>; 2],
    found: Scanned,
    name: Option<Arc<str>>,
    /// Where the value of `name` stands.
    name_value: Option<Range<u64>>,
    has_content: bool,
    /// The place of `options.num_ctx`, if the key was there; `None` in it if the value is wrong.
    num_ctx: Option<Option<OptionPlace>>,
    /// From the beginning of the first part of the prompt to the end of the last one so far.
    content: Option<Range<u64>>,
    /// The current member of a message is its images.
    is_images: bool,
    /// The depth of the key whose value is an image, and where the value begins.
    image_at: Option<(u32, u64)>,
    /// Where the value of a `source` begins that may be an image in the result of a tool.
    source: Option<u64>,
    error: Option<ScanError>,
}

impl Collector {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            limits_output: false,
            seen: Seen::default(),
            current: [None, None],
            found: Scanned::default(),
            name: None,
            name_value: None,
            has_content: false,
            num_ctx: None,
            content: None,
            is_images: false,
            image_at: None,
            source: None,
            error: None,
        }
    }

    pub(super) fn limit_output(&mut self) {
        self.limits_output = true;
    }

    pub(super) fn finish(mut self) -> Result<Scanned, ScanError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.keys.contains(Key::Options) && !self.seen.contains(Key::Options) {
            let place = OptionPlace::InBody {
                at: self.found.members_begin,
                is_empty: self.found.is_empty_object,
            };
            self.found.places.num_ctx = Some(place.clone());
            self.found.output.option = Some(place);
        }
        self.found.places.model = match (&self.found.model, &self.name) {
            (Some(_), _) => self.found.model_value.clone(),
            (None, Some(_)) => self.name_value,
            (None, None) => None,
        };
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

    /// Whether known keys may be in the value of the current key of the body.
    fn has_known_members(&self) -> bool {
        matches!(
            self.current[0],
            Some(Key::Options | Key::Reasoning | Key::Thinking)
        )
    }

    fn is_in_content(&self) -> bool {
        matches!(self.current[0], Some(Key::Messages | Key::Input))
    }

    /// A key in a message. Those of images are noticed: of OpenAI's parts of a message
    /// (`image_url`), and of Anthropic's (`source`), also in the result of a tool (`media_type`).
    fn key_in_content(&mut self, depth: u32, kept: Kept<'_>, end: u64) {
        self.is_images = false;
        self.end_image(depth, end);
        let source = match depth {
            8.. => self.source,
            _ => self.source.take(),
        };
        if kept.is_cut || !self.is_in_content() {
            return;
        }
        match (depth, kept.raw) {
            (3, b"images") => self.is_images = true,
            (5, b"image_url" | b"source") => {
                self.found.needs.images = true;
                self.image_at = Some((depth, end));
            }
            (5, b"input_audio" | b"file") => self.image_at = Some((depth, end)),
            (7, b"source") => self.source = Some(end),
            (8, b"media_type") => {
                self.found.needs.images = true;
                self.image_at = self.image_at.or(source.map(|begin| (7, begin)));
            }
            _ => {}
        }
    }

    /// Counts the bytes of an image that is over, because a key or a value at this depth ends here.
    fn end_image(&mut self, depth: u32, end: u64) {
        if let Some((_, begin)) = self.image_at.take_if(|(of, _)| *of >= depth) {
            self.found.image_bytes += end - begin;
        }
    }

    fn wrong_type(&mut self, key: Key, found: &'static str, expected: &'static str) {
        self.fail(ScanError::WrongType {
            key: key.text(),
            found,
            expected,
        });
    }

    /// Notes a limit of the response. A server that is less strict than Ollama may read another type
    /// as a number.
    fn output_limit(&mut self, key: Key, value: Value<'_>, at: Range<u64>) {
        let asked = asked(value);
        if asked == Asked::Invalid && self.limits_output && key != Key::NumPredict {
            return self.wrong_type(key, kind_of(value), "int");
        }
        let place = match key {
            Key::MaxCompletionTokens => &mut self.found.output.completion,
            _ => &mut self.found.output.own,
        };
        *place = Some(Limit { at, asked });
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

/// The limit of a response. Ollama cuts off fractions, and generates without a limit if nothing is
/// left.
fn asked(value: Value<'_>) -> Asked {
    let tokens = match value {
        Value::Null => return Asked::Null,
        Value::Number(kept) => match number(kept) {
            Some(number) if number >= 1.0 => number as u64,
            Some(_) => 0,
            // It has very many digits or a very large exponent.
            None => u64::MAX,
        },
        _ => return Asked::Invalid,
    };
    NonZeroU64::new(tokens).map_or(Asked::NoLimit, Asked::Tokens)
}

/// Ollama's smallest context: smaller numbers are raised to it.
const MIN_NUM_CTX: f64 = 4.0;

/// More than any model has. Ollama lowers numbers to the model's own context, except those that do
/// not fit into its integer: these become negative, and then the smallest context.
const MAX_NUM_CTX: u64 = i32::MAX as u64;

/// The context size of `options.num_ctx`, and whether it is another one than the body says. A
/// number below the smallest context is no size that a client can want, and counts as not given.
fn context_size(value: Value<'_>) -> (Option<u64>, bool) {
    let kept = match value {
        Value::Number(kept) if !kept.is_cut => kept,
        other => return (None, matches!(other, Value::Number(_))),
    };
    match number(kept) {
        Some(size) if size < MIN_NUM_CTX => (None, true),
        Some(size) if size > MAX_NUM_CTX as f64 => (Some(MAX_NUM_CTX), true),
        // As in Ollama, the fraction is cut off.
        Some(size) => (Some(size as u64), false),
        // The server refuses it.
        None => (None, false),
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

/// Whether the value of `think` or of an effort turns thinking on.
fn asks_to_think(value: Value<'_>) -> bool {
    match value {
        Value::Bool(thinks) => thinks,
        Value::String(kept) => !kept.raw.is_empty() && kept.raw != b"none",
        _ => false,
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
            2 if self.has_known_members() => KEY_BYTES,
            3.. if self.is_in_content() => KEY_BYTES,
            _ => 0,
        }
    }

    fn key(&mut self, depth: u32, kept: Kept<'_>, end: u64) {
        if depth > 2 {
            return self.key_in_content(depth, kept, end);
        }
        let slot = depth as usize - 1;
        self.current[slot] = None;
        if kept.is_cut || depth == 2 && !self.has_known_members() {
            return;
        }
        if depth == 2 && self.current[0] != Some(Key::Options) {
            self.current[slot] = match kept.raw {
                b"effort" => Some(Key::Effort),
                b"type" => Some(Key::Type),
                _ => None,
            };
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
        let is_acted_on = key.is_acted_on() || self.limits_output && key.limits_output();
        if (!self.seen.insert(key) || !is_as_written) && is_acted_on {
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
            self.found.json_bytes = span.end;
            self.found.is_empty_object = matches!(value, Value::Object { is_empty: true });
            return;
        }
        self.end_image(depth, span.end);
        if depth == 3 {
            if self.is_images {
                self.found.needs.images |= is_content(value);
                self.found.image_bytes += span.end - span.start;
            }
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
            (Key::Name | Key::Source, _) => {
                self.name = self.name(key, value);
                self.name_value = Some(span);
            }
            (Key::Stream, Value::Bool(stream)) => self.found.stream = Some(stream),
            (Key::Stream, Value::Null) => {}
            (Key::Stream, other) => self.wrong_type(key, kind_of(other), "bool"),
            (Key::KeepAlive, _) => {
                self.found.keep_alive = keep_alive(value);
                self.found.places.keep_alive = Some(span);
            }
            (Key::Prompt | Key::Messages | Key::Input, _) => {
                self.has_content |= is_content(value);
            }
            (Key::NumCtx, _) => {
                let (size, is_corrected) = context_size(value);
                self.found.num_ctx = size;
                self.found.places.corrects_num_ctx = is_corrected;
                self.num_ctx = Some(match value {
                    Value::Number(_) | Value::Null => Some(OptionPlace::Value(span)),
                    // The server refuses it.
                    _ => None,
                });
            }
            (
                Key::MaxTokens | Key::MaxCompletionTokens | Key::MaxOutputTokens | Key::NumPredict,
                _,
            ) => {
                // Of several, a server may take any.
                self.found.max_tokens = self.found.max_tokens.max(tokens(value));
                self.output_limit(key, value, span);
            }
            (Key::Options, _) => {
                let place = match value {
                    Value::Object { is_empty } => Some(OptionPlace::InOptions {
                        at: span.start + 1,
                        is_empty,
                    }),
                    Value::Null => Some(OptionPlace::Options(span)),
                    _ => None,
                };
                let own = self.found.output.own.as_ref();
                self.found.output.option = match own {
                    Some(own) => Some(OptionPlace::Value(own.at.clone())),
                    None => place.clone(),
                };
                self.found.places.num_ctx = self.num_ctx.take().unwrap_or(place);
            }
            (Key::Images, _) => {
                self.found.needs.images |= is_content(value);
                self.found.image_bytes += span.end - span.start;
            }
            (Key::Tools, _) => self.found.needs.tools |= is_content(value),
            (Key::Think | Key::ReasoningEffort | Key::Effort, _) => {
                self.found.needs.thinking |= asks_to_think(value);
            }
            (Key::Type, Value::String(kept)) if self.current[0] == Some(Key::Thinking) => {
                self.found.needs.thinking |= kept.raw == b"enabled";
            }
            (Key::System | Key::Instructions | Key::Reasoning | Key::Thinking | Key::Type, _) => {}
        }
    }
}
