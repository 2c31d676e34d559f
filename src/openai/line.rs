//! Writes items of Ollama's dialect: the lines of a stream, and whole answers.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;

/// The route of the answer, which decides its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `/api/chat`.
    Chat,
    /// `/api/generate`.
    Generate,
}

/// The time of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since the request was sent.
    pub elapsed: Duration,
    /// The date, for `created_at`.
    pub wall: Timestamp,
}

/// The content of an item. Texts are JSON.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Item<'a> {
    pub(super) content: Option<&'a str>,
    pub(super) thinking: Option<&'a str>,
    /// The written list of calls.
    pub(super) tool_calls: Option<&'a [u8]>,
    pub(super) logprobs: Option<&'a str>,
    pub(super) end: Option<&'a End<'a>>,
}

/// The end of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End<'a> {
    /// `done_reason`.
    pub(super) reason: &'a str,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
    pub(super) total: Duration,
    pub(super) prompt: Duration,
    pub(super) output: Duration,
}

/// Writes the items of one answer.
#[derive(Debug)]
pub(super) struct Writer {
    shape: Shape,
    /// The beginning of each item, up to the date.
    head: Box<str>,
    /// The date of the latest item, as text.
    date: String,
    dated: Option<Timestamp>,
}

impl Writer {
    /// `model` is the name as the client wrote it.
    pub(super) fn new(shape: Shape, model: &str) -> Self {
        let mut name = BytesMut::new();
        let quoted = serde_json::to_string(model).unwrap_or_default();
        put_json_text(&mut name, &quoted);
        let name = String::from_utf8_lossy(&name);
        Self {
            shape,
            head: format!("{{\"model\":{name},\"created_at\":\"").into(),
            date: String::new(),
            dated: None,
        }
    }

    /// Writes an item, without a line feed.
    pub(super) fn item(&mut self, out: &mut BytesMut, wall: Timestamp, item: &Item<'_>) {
        use std::fmt::Write as _;
        if self.dated != Some(wall) {
            self.date.clear();
            // Writing to a text cannot fail.
            let _ = write!(self.date, "{wall}");
            self.dated = Some(wall);
        }
        out.put_slice(self.head.as_bytes());
        out.put_slice(self.date.as_bytes());
        let content = item.content.unwrap_or("\"\"");
        match self.shape {
            Shape::Chat => {
                out.put_slice(b"\",\"message\":{\"role\":\"assistant\",\"content\":");
                put_json_text(out, content);
                put_member(out, b",\"thinking\":", item.thinking);
                if let Some(calls) = item.tool_calls {
                    out.put_slice(b",\"tool_calls\":");
                    out.put_slice(calls);
                }
                out.put_u8(b'}');
            }
            Shape::Generate => {
                out.put_slice(b"\",\"response\":");
                put_json_text(out, content);
                put_member(out, b",\"thinking\":", item.thinking);
            }
        }
        match item.end {
            None => {
                out.put_slice(b",\"done\":false");
                put_member(out, b",\"logprobs\":", item.logprobs);
            }
            Some(end) => {
                out.put_slice(b",\"done\":true,\"done_reason\":");
                let reason = serde_json::to_string(end.reason).unwrap_or_default();
                put_json_text(out, &reason);
                put_member(out, b",\"logprobs\":", item.logprobs);
                end.write(out);
            }
        }
        out.put_u8(b'}');
    }
}

impl End<'_> {
    /// Ollama's order; what is zero is left out, as there.
    fn write(&self, out: &mut BytesMut) {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        for (name, value) in [
            ("total_duration", nanoseconds(self.total)),
            ("prompt_eval_count", self.prompt_tokens.unwrap_or(0)),
            ("prompt_eval_duration", nanoseconds(self.prompt)),
            ("eval_count", self.output_tokens.unwrap_or(0)),
            ("eval_duration", nanoseconds(self.output)),
        ] {
            if value > 0 {
                out.put_slice(format!(",\"{name}\":{value}").as_bytes());
            }
        }
    }
}

fn put_member(out: &mut BytesMut, name: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.put_slice(name);
        put_json_text(out, value);
    }
}

/// Copies JSON onto one line, also for readers that treat Unicode's separators as the end of a line.
///
/// Outside of strings JSON may have line breaks, which become spaces; in strings they are escaped
/// already. The separators are not ASCII, so they are in strings and can be escaped.
pub(super) fn put_json_text(out: &mut BytesMut, json: &str) {
    let bytes = json.as_bytes();
    let mut copied = 0;
    // The first bytes of U+0085 and of U+2028 and U+2029, and the line breaks.
    let suspects = memchr::memchr2_iter(0xC2, 0xE2, bytes);
    for at in suspects {
        let (escape, length): (&[u8], usize) = match &bytes[at..] {
            [0xC2, 0x85, ..] => (b"\\u0085", 2),
            [0xE2, 0x80, 0xA8, ..] => (b"\\u2028", 3),
            [0xE2, 0x80, 0xA9, ..] => (b"\\u2029", 3),
            _ => continue,
        };
        put_on_one_line(out, &bytes[copied..at]);
        out.put_slice(escape);
        copied = at + length;
    }
    put_on_one_line(out, &bytes[copied..]);
}

fn put_on_one_line(out: &mut BytesMut, mut bytes: &[u8]) {
    while let Some(at) = memchr::memchr2(b'\n', b'\r', bytes) {
        out.put_slice(&bytes[..at]);
        out.put_u8(b' ');
        bytes = &bytes[at + 1..];
    }
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::*;

    fn copied(json: &str) -> String {
        let mut out = BytesMut::new();
        put_json_text(&mut out, json);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn json_is_copied_onto_one_line_with_the_same_value() {
        for json in [
            "\"plain\"",
            "\"a\u{2028}b\u{2029}c\u{85}\"",
            "\"“quotes” – §é 🦙\"",
            "{\n  \"a\": \"\\n\",\r\n  \"b\": [1,\n2]\n}",
            "\"\\u2028\"",
        ] {
            let copied = copied(json);
            assert!(!copied.contains(['\n', '\r', '\u{2028}', '\u{2029}', '\u{85}']));
            let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(value(&copied), value(json));
        }
        assert_eq!(copied("\"<&>\""), "\"<&>\"");
    }

    #[test]
    fn items_have_the_fields_and_the_order_of_ollama() {
        let wall: Timestamp = "2026-11-23T07:05:38.564038018Z".parse().unwrap();
        let end = End {
            reason: "stop",
            prompt_tokens: Some(37),
            output_tokens: Some(6),
            total: Duration::from_nanos(10_758_136),
            prompt: Duration::from_nanos(3_072_000),
            output: Duration::from_nanos(2_227_000),
        };
        let mut out = BytesMut::new();
        let item = Item {
            end: Some(&end),
            ..Item::default()
        };
        Writer::new(Shape::Chat, "tiny").item(&mut out, wall, &item);
        assert_eq!(
            out,
            r#"{"model":"tiny","created_at":"2026-11-23T07:05:38.564038018Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":10758136,"prompt_eval_count":37,"prompt_eval_duration":3072000,"eval_count":6,"eval_duration":2227000}"#
        );
        let mut out = BytesMut::new();
        let item = Item {
            content: Some("\" and\""),
            thinking: Some("\"hm\""),
            ..Item::default()
        };
        Writer::new(Shape::Generate, "a\"b").item(&mut out, wall, &item);
        assert_eq!(
            out,
            r#"{"model":"a\"b","created_at":"2026-11-23T07:05:38.564038018Z","response":" and","thinking":"hm","done":false}"#
        );
    }
}
