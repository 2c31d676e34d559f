//! Whether a stream is complete, by its last item.

use std::cell::OnceCell;

use serde::Deserialize;
use serde_json::Value;

use super::Framing;
use crate::{Dialect, Operation};

/// The last item of a complete stream. An item with an error ends a stream under every rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndRule {
    /// A line with `"done":true`: Ollama's inference responses.
    Done,
    /// `data: [DONE]`: OpenAI's chats and completions.
    DoneMarker,
    /// The event `response.completed` or `response.incomplete`; `response.failed` is an error.
    ResponseEvent,
    /// The event `message_stop`.
    MessageStop,
    /// Any item: for streams whose end is not known. `{"status":"success"}`, the last line of
    /// Ollama's pulls, pushes and creations, is certainly an end.
    AnyItem,
}

/// The meaning of a stream's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// The stream is complete.
    Complete,
    /// The last item is an error.
    Error,
    /// The stream is incomplete.
    Unfinished,
    /// It is not known whether the stream is complete.
    Unknown,
}

impl EndRule {
    /// The rule for the response to a request of this kind.
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

    /// The meaning of the stream's end if `item` is the last one.
    pub(super) fn end_after(self, framing: Framing, item: Option<&[u8]>) -> StreamEnd {
        let event = item.map(|item| Event::of(framing, item));
        match event {
            Some(event) if event.is_error() => StreamEnd::Error,
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

/// The number of the event after `item`, in streams with numbered events.
pub(super) fn next_sequence_number(framing: Framing, item: &[u8]) -> u64 {
    let number = Event::of(framing, item).json().sequence_number.as_u64();
    number.map_or(0, |number| number.saturating_add(1))
}

/// The text of an event's `data`.
pub(super) fn data_of_event(item: &[u8]) -> &[u8] {
    Event::of_event(item).data
}

/// A parsed item.
struct Event<'a> {
    name: Option<&'a [u8]>,
    data: &'a [u8],
    json: OnceCell<Last>,
}

/// The relevant JSON fields of a last item.
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

    /// An event's name and its last line of data; LLM servers send one such line.
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
        // serde would also read a struct from an array.
        let is_object = self.data.trim_ascii_start().starts_with(b"{");
        self.json.get_or_init(|| match is_object {
            true => serde_json::from_slice(self.data).unwrap_or_default(),
            false => Last::default(),
        })
    }

    /// The event's name, or the type in its data if it has no name.
    fn kind(&self) -> Option<&str> {
        match self.name {
            Some(name) => str::from_utf8(name).ok(),
            None => self.json().kind.as_str(),
        }
    }

    fn is_error(&self) -> bool {
        if matches!(self.kind(), Some("error" | "response.failed")) {
            return true;
        }
        let last = self.json();
        last.kind == "error" || !matches!(last.error, Value::Null | Value::Bool(false))
    }
}
