//! What the last item of a stream says about its end.

use std::cell::OnceCell;

use serde::Deserialize;
use serde_json::Value;

use super::Framing;
use crate::{Dialect, Operation};

/// What must stand last for a stream to be complete. An item that tells of an error is an end
/// under every rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndRule {
    /// A line with `"done":true`: Ollama's answers of models.
    Done,
    /// `data: [DONE]`: OpenAI's chats and completions.
    DoneMarker,
    /// The event `response.completed` or `response.incomplete`; `response.failed` tells of an error.
    ResponseEvent,
    /// The event `message_stop`.
    MessageStop,
    /// Any: streams of which it is not known how they end. `{"status":"success"}`, the last line
    /// of Ollama's pulls, pushes and creations, is one for certain.
    AnyItem,
}

/// What the end of a stream means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// All has been said.
    Complete,
    /// The last item tells of an error.
    Error,
    /// Something is missing.
    Unfinished,
    /// Nothing says that something is missing, and nothing that all is there.
    Unknown,
}

impl EndRule {
    /// The rule for an answer to a request of this kind.
    pub fn of(framing: Framing, dialect: Dialect, operation: Option<Operation>) -> Self {
        if !matches!(operation, Some(Operation::Chat | Operation::Generate)) {
            return Self::AnyItem;
        }
        match (framing, dialect) {
            (Framing::Ndjson, Dialect::Ollama) => Self::Done,
            (Framing::Sse, Dialect::OpenAi) => Self::DoneMarker,
            (Framing::Sse, Dialect::Responses) => Self::ResponseEvent,
            (Framing::Sse, Dialect::Anthropic) => Self::MessageStop,
            _ => Self::AnyItem,
        }
    }

    /// What it means that `item` is the last one of a stream.
    pub(super) fn judge(self, framing: Framing, item: Option<&[u8]>) -> StreamEnd {
        let event = item.map(|item| Event::of(framing, item));
        match event {
            Some(event) if event.tells_of_error() => StreamEnd::Error,
            Some(event) if self.is_met_by(&event) => StreamEnd::Complete,
            _ if self == Self::AnyItem => StreamEnd::Unknown,
            _ => StreamEnd::Unfinished,
        }
    }

    fn is_met_by(self, event: &Event<'_>) -> bool {
        match self {
            Self::Done => event.json().done == Value::Bool(true),
            Self::DoneMarker => event.data.trim_ascii().starts_with(b"[DONE]"),
            Self::ResponseEvent => matches!(
                event.kind(),
                Some("response.completed" | "response.incomplete")
            ),
            Self::MessageStop => event.kind() == Some("message_stop"),
            Self::AnyItem => event.json().status == "success",
        }
    }
}

/// The number that the event after `item` has, in streams whose events are numbered.
pub(super) fn next_sequence_number(framing: Framing, item: &[u8]) -> u64 {
    let number = Event::of(framing, item).json().sequence_number.as_u64();
    number.map_or(0, |number| number.saturating_add(1))
}

/// What stands in an event's `data`.
pub(super) fn data_of_event(item: &[u8]) -> &[u8] {
    Event::of_event(item).data
}

/// One item, taken apart.
struct Event<'a> {
    name: Option<&'a [u8]>,
    data: &'a [u8],
    json: OnceCell<Last>,
}

/// What is looked for in the JSON of a last item.
#[derive(Default, Deserialize)]
struct Last {
    #[serde(default)]
    done: Value,
    #[serde(default)]
    error: Value,
    #[serde(default)]
    status: Value,
    #[serde(default)]
    sequence_number: Value,
    #[serde(default, rename = "type")]
    kind: Value,
}

impl<'a> Event<'a> {
    fn of(framing: Framing, item: &'a [u8]) -> Self {
        match framing {
            Framing::Ndjson => Self::of_line(item),
            Framing::Sse => Self::of_event(item),
        }
    }

    fn of_line(data: &'a [u8]) -> Self {
        Self {
            name: None,
            data,
            json: OnceCell::new(),
        }
    }

    /// An event's name and its last line of data; servers of models send one such line.
    fn of_event(item: &'a [u8]) -> Self {
        let mut event = Self::of_line(&[]);
        for line in item.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let colon = memchr::memchr(b':', line).unwrap_or(line.len());
            let value = line.get(colon + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &line[..colon] {
                b"event" => event.name = Some(value),
                b"data" => event.data = value,
                _ => {}
            }
        }
        event
    }

    fn json(&self) -> &Last {
        // A struct could be read from an array, too.
        let is_object = self.data.trim_ascii_start().starts_with(b"{");
        self.json.get_or_init(|| match is_object {
            true => serde_json::from_slice(self.data).unwrap_or_default(),
            false => Last::default(),
        })
    }

    /// The event's name, or the type in its data where it has no name of its own.
    fn kind(&self) -> Option<&str> {
        match self.name {
            Some(name) => str::from_utf8(name).ok(),
            None => self.json().kind.as_str(),
        }
    }

    fn tells_of_error(&self) -> bool {
        if matches!(self.kind(), Some("error" | "response.failed")) {
            return true;
        }
        let last = self.json();
        last.kind == "error" || !matches!(last.error, Value::Null | Value::Bool(false))
    }
}
