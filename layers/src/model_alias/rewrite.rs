//! Replaces the model's name in the bytes of a response.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2, memchr3};

/// What a response consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Items {
    /// One JSON object.
    One,
    /// A JSON object in each line, or in each `data:` line of an event stream.
    Lines {
        /// The object with the model, if the model is not a member of the line's object itself.
        inside: Option<&'static str>,
        /// Only one line names the model.
        once: bool,
    },
}

/// Finds the value of `model` in each item of a response and replaces it.
///
/// It holds no bytes: what it does not replace passes as it arrives, in frames of any size. It does
/// not check the syntax. In lines it begins anew after each line feed, so that one that is not JSON
/// has no effect on the next.
#[derive(Debug)]
pub(super) struct Rewriter {
    /// The new value, with its quotes.
    value: Bytes,
    items: Items,
    state: State,
    depth: u32,
    /// The object at depth 2 is the one of [`Items::Lines::inside`].
    is_inside: bool,
    /// The next string at a watched depth is a key.
    at_key: bool,
    key: Key,
    /// The length of the value that was replaced last.
    replaced: Option<u64>,
    /// Where frames are put together. It is used again when they have been sent.
    buffer: BytesMut,
}

/// Room for a few lines.
const BUFFER_BYTES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before an item.
    Outside,
    /// In an item, between strings.
    Between,
    String {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    /// Within the value that is replaced; the new one was written.
    Value,
    ValueEscape,
    /// In an item, after the model.
    Rest,
    /// Nothing is to be replaced any more.
    Done,
}

/// A key, as far as it is needed to compare it.
#[derive(Clone, Copy, Debug, Default)]
struct Key {
    bytes: [u8; Key::LONGEST],
    len: usize,
}

impl Key {
    const LONGEST: usize = 9;

    fn push(&mut self, bytes: &[u8]) {
        let left = &mut self.bytes[self.len.min(Self::LONGEST)..];
        let fits = bytes.len().min(left.len());
        left[..fits].copy_from_slice(&bytes[..fits]);
        // A longer key has a length that no known key has.
        self.len = self.len.saturating_add(bytes.len());
    }

    fn is(&self, name: &str) -> bool {
        self.len == name.len() && self.bytes.get(..self.len) == Some(name.as_bytes())
    }
}

impl Rewriter {
    /// Writes `name` in place of each model.
    pub(super) fn new(name: &str, items: Items) -> Self {
        Self {
            value: serde_json::Value::from(name).to_string().into(),
            items,
            state: State::Outside,
            depth: 0,
            is_inside: false,
            at_key: false,
            key: Key::default(),
            replaced: None,
            buffer: BytesMut::new(),
        }
    }

    /// Whether the rest of the response passes unchanged.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The length that the value had and the length that it has, if one was replaced.
    pub(super) fn lengths(&self) -> Option<(u64, u64)> {
        Some((self.replaced?, self.value.len() as u64))
    }

    /// The next frame, which may have become empty. A frame without a model is not copied.
    pub(super) fn rewrite(&mut self, frame: Bytes) -> Bytes {
        // What was not copied yet.
        let mut from = 0;
        let mut at = 0;
        while at < frame.len() && self.state != State::Done {
            let rest = &frame[at..];
            match self.state {
                State::Value | State::ValueEscape => {
                    let end = self.skip_value(rest);
                    at += end;
                    from = at;
                    continue;
                }
                State::Outside => at += self.find_item(rest),
                State::Rest => at += self.find_line_feed(rest),
                State::String { is_key } => at += self.string(rest, is_key),
                State::Escape { is_key } => {
                    self.state = State::String { is_key };
                    at += 1;
                }
                State::Between => {
                    let byte = rest[0];
                    if byte == b'"' && self.begins_model() {
                        let room = frame.len() + self.value.len();
                        if self.buffer.capacity() - self.buffer.len() < room {
                            self.buffer.reserve(room.max(BUFFER_BYTES));
                        }
                        self.buffer.extend_from_slice(&frame[from..at]);
                        self.buffer.extend_from_slice(&self.value);
                        self.replaced = Some(1);
                        self.state = State::Value;
                    } else {
                        self.step(byte);
                    }
                    at += 1;
                }
                State::Done => {}
            }
        }
        if matches!(self.state, State::Value | State::ValueEscape) {
            from = frame.len();
        }
        if self.buffer.is_empty() {
            return match from {
                0 => frame,
                _ => frame.slice(from..),
            };
        }
        self.buffer.extend_from_slice(&frame[from..]);
        self.buffer.split().freeze()
    }

    /// Skips the value that was replaced; returns how many bytes of it there are here.
    fn skip_value(&mut self, bytes: &[u8]) -> usize {
        let skipped = match self.state {
            State::ValueEscape => {
                self.state = State::Value;
                1
            }
            _ => match self.find_special(bytes) {
                None => bytes.len(),
                Some(at) => {
                    self.state = match bytes[at] {
                        b'\\' => State::ValueEscape,
                        b'"' => self.after_model(),
                        _ => {
                            self.state = State::Outside;
                            return at;
                        }
                    };
                    at + 1
                }
            },
        };
        self.replaced = self.replaced.map(|length| length + skipped as u64);
        skipped
    }

    /// The next byte of a string with a meaning. A line feed is none of a string's bytes, so it ends
    /// a line that is not JSON.
    fn find_special(&self, bytes: &[u8]) -> Option<usize> {
        match self.items {
            Items::One => memchr2(b'"', b'\\', bytes),
            Items::Lines { .. } => memchr3(b'"', b'\\', b'\n', bytes),
        }
    }

    fn after_model(&self) -> State {
        match self.items {
            Items::One | Items::Lines { once: true, .. } => State::Done,
            Items::Lines { .. } => State::Rest,
        }
    }

    /// The number of bytes before and with the first one of an item.
    fn find_item(&mut self, bytes: &[u8]) -> usize {
        match memchr(b'{', bytes) {
            None => bytes.len(),
            Some(at) => {
                self.state = State::Between;
                self.depth = 1;
                self.at_key = true;
                self.is_inside = false;
                at + 1
            }
        }
    }

    fn find_line_feed(&mut self, bytes: &[u8]) -> usize {
        match memchr(b'\n', bytes) {
            None => bytes.len(),
            Some(at) => {
                self.state = State::Outside;
                at + 1
            }
        }
    }

    /// The number of bytes of a string, with its quote at the end.
    fn string(&mut self, bytes: &[u8], is_key: bool) -> usize {
        let end = self.find_special(bytes);
        let plain = &bytes[..end.unwrap_or(bytes.len())];
        if is_key {
            self.key.push(plain);
        }
        let Some(end) = end else {
            return bytes.len();
        };
        self.state = match bytes[end] {
            b'"' => State::Between,
            b'\n' => State::Outside,
            // A key with an escape is none of the known ones.
            _ => {
                self.key.push(&[b'\\'; Key::LONGEST]);
                State::Escape { is_key }
            }
        };
        end + 1
    }

    /// A byte between strings.
    fn step(&mut self, byte: u8) {
        match byte {
            b'"' => {
                let is_key = self.at_key && self.is_watched();
                if is_key {
                    self.key = Key::default();
                }
                self.state = State::String { is_key };
            }
            b':' => self.at_key = false,
            b',' => self.at_key = true,
            b'{' | b'[' => {
                let inside = match self.items {
                    Items::Lines { inside, .. } => inside,
                    Items::One => None,
                };
                if self.depth == 1 {
                    let is_object = byte == b'{';
                    self.is_inside = is_object && inside.is_some_and(|name| self.key.is(name));
                }
                self.depth += 1;
                self.at_key = true;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.at_key = false;
                if self.depth == 0 {
                    self.state = match self.items {
                        Items::One => State::Done,
                        Items::Lines { .. } => State::Outside,
                    };
                }
            }
            b'\n' if self.items != Items::One => self.state = State::Outside,
            _ => {}
        }
    }

    /// Whether members at this depth are compared with the known keys.
    fn is_watched(&self) -> bool {
        self.depth == 1 || self.depth == 2 && self.is_inside
    }

    /// Whether a string that begins here is the model.
    fn begins_model(&self) -> bool {
        let is_place = match self.items {
            Items::Lines {
                inside: Some(_), ..
            } => self.depth == 2 && self.is_inside,
            _ => self.depth == 1,
        };
        is_place && !self.at_key && self.key.is("model")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const LINES: Items = Items::Lines {
        inside: None,
        once: false,
    };

    const fn inside(name: &'static str, once: bool) -> Items {
        Items::Lines {
            inside: Some(name),
            once,
        }
    }

    /// The text in frames that end at these places.
    fn rewritten(items: Items, name: &str, text: &str, ends: &[usize]) -> String {
        let mut rewriter = Rewriter::new(name, items);
        let whole = Bytes::from(text.to_owned());
        let mut out = Vec::new();
        let mut from = 0;
        for end in ends.iter().copied().chain([text.len()]) {
            out.extend_from_slice(&rewriter.rewrite(whole.slice(from..end)));
            from = end;
        }
        String::from_utf8(out).unwrap()
    }

    const CASES: [(Items, &str, &str); 9] = [
        (
            LINES,
            "{\"model\":\"tiny\",\"message\":{\"model\":\"x\"},\"done\":false}\n{\"a\":[{\"model\":\"y\"}],\"model\":\"\\\"\\\\\",\"done\":true}\n",
            "{\"model\":\"an \\\"alias\\\"\",\"message\":{\"model\":\"x\"},\"done\":false}\n{\"a\":[{\"model\":\"y\"}],\"model\":\"an \\\"alias\\\"\",\"done\":true}\n",
        ),
        (
            LINES,
            ": a comment\n\ndata: {\"id\":\"model\",\"model\" : \"tiny\",\"choices\":[]}\n\ndata: [DONE]\n\n",
            ": a comment\n\ndata: {\"id\":\"model\",\"model\" : \"an \\\"alias\\\"\",\"choices\":[]}\n\ndata: [DONE]\n\n",
        ),
        (
            inside("message", true),
            "event: message_start\ndata: {\"type\":\"message_start\",\"model\":\"o\",\"message\":{\"id\":1,\"model\":\"tiny\"}}\n\ndata: {\"message\":{\"model\":\"tiny\"}}\n\n",
            "event: message_start\ndata: {\"type\":\"message_start\",\"model\":\"o\",\"message\":{\"id\":1,\"model\":\"an \\\"alias\\\"\"}}\n\ndata: {\"message\":{\"model\":\"tiny\"}}\n\n",
        ),
        (
            inside("response", false),
            "data: {\"response\":{\"metadata\":{\"model\":\"m\"},\"model\":\"tiny\"}}\n\ndata: {\"response\":[\"model\",\"x\"],\"delta\":\"{\\\"model\\\":\"}\n\ndata: {\"response\":{\"model\":\"tiny\"}}\n\n",
            "data: {\"response\":{\"metadata\":{\"model\":\"m\"},\"model\":\"an \\\"alias\\\"\"}}\n\ndata: {\"response\":[\"model\",\"x\"],\"delta\":\"{\\\"model\\\":\"}\n\ndata: {\"response\":{\"model\":\"an \\\"alias\\\"\"}}\n\n",
        ),
        (
            Items::One,
            "{\n \"data\": [{\"model\":\"x\"}],\n \"model\": \"tiny\",\n \"n\":{\"model\":\"y\"}}\n",
            "{\n \"data\": [{\"model\":\"x\"}],\n \"model\": \"an \\\"alias\\\"\",\n \"n\":{\"model\":\"y\"}}\n",
        ),
        (
            Items::One,
            "{\"model\":null,\"remote_model\":\"x\"}",
            "{\"model\":null,\"remote_model\":\"x\"}",
        ),
        (
            Items::One,
            "{\"mod\\u0065l\":\"x\"}",
            "{\"mod\\u0065l\":\"x\"}",
        ),
        (
            LINES,
            "{\"a\":\"{\n{\"model\":\"x\"}\n",
            "{\"a\":\"{\n{\"model\":\"an \\\"alias\\\"\"}\n",
        ),
        (LINES, "no JSON } ] \" \\ \n", "no JSON } ] \" \\ \n"),
    ];

    #[test]
    fn the_model_of_each_item_is_replaced_and_nothing_else() {
        for (items, text, expected) in CASES {
            assert_eq!(rewritten(items, "an \"alias\"", text, &[]), expected);
        }
    }

    #[test]
    fn the_lengths_of_the_old_and_the_new_value_are_known() {
        let mut rewriter = Rewriter::new("gpt", Items::One);
        assert_eq!(rewriter.lengths(), None);
        rewriter.rewrite(Bytes::from(r#"{"model":"ti"#));
        assert!(!rewriter.is_done());
        rewriter.rewrite(Bytes::from(r#"\"ny","done":true}"#));
        assert_eq!(rewriter.lengths(), Some((r#""ti\"ny""#.len() as u64, 5)));
        assert!(rewriter.is_done());
    }

    #[test]
    fn a_frame_without_a_model_is_not_copied() {
        let mut rewriter = Rewriter::new("gpt", inside("response", false));
        let frame = Bytes::from("data: {\"delta\":\"a\"}\n\n");
        assert_eq!(rewriter.rewrite(frame.clone()).as_ptr(), frame.as_ptr());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bytes(
            case in 0..CASES.len(),
            mut ends in prop::collection::vec(0..200usize, 0..12),
        ) {
            let (items, text, expected) = CASES[case];
            ends.sort_unstable();
            ends.retain(|end| *end <= text.len());
            prop_assert_eq!(rewritten(items, "an \"alias\"", text, &ends), expected);
        }

        #[test]
        fn any_bytes_pass_without_a_panic(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["{", "}", "[", "]", "\"", "\\", ":", ",", "model", "\n", "response", "x"]),
                0..40,
            ),
        ) {
            for items in [LINES, Items::One, inside("response", false)] {
                let mut rewriter = Rewriter::new("gpt", items);
                for piece in &pieces {
                    rewriter.rewrite(Bytes::from(*piece));
                }
            }
        }

        #[test]
        fn a_rewritten_line_is_the_same_json_with_another_model(
            before in "[a-z\\PC]{0,8}", model in "\\PC{0,8}", after in "\\PC{0,8}", name in "\\PC{0,8}",
        ) {
            let mut line = serde_json::json!({"a": [before, {"model": after}], "model": model, "z": after});
            let text = format!("{line}\n");
            let out = rewritten(LINES, &name, &text, &[]);
            line["model"] = name.into();
            let out: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(out, line);
        }
    }
}
