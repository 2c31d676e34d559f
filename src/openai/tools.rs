//! Tool calls: OpenAI sends the arguments as a text in fragments, Ollama a whole object.

use bytes::{BufMut, BytesMut};
use serde_json::value::RawValue;

use super::chunk::ToolCall;
use super::line::put_json_text;

/// Limits of one answer. They are far above what a model writes, and bound the memory of a stream.
const MAX_CALLS: usize = 256;
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The calls of an answer so far.
#[derive(Debug, Default)]
pub(super) struct ToolCalls {
    calls: Vec<Call>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Call {
    /// The number that the server gives it.
    index: usize,
    id: String,
    name: String,
    arguments: String,
}

impl ToolCalls {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Adds a call, or a fragment of one.
    ///
    /// # Errors
    /// The calls exceed the limits.
    pub(super) fn add(&mut self, part: &ToolCall<'_>) -> Result<(), &'static str> {
        let function = part.function.as_ref();
        let name = function.and_then(|function| function.name.as_ref());
        let name = name.map(|name| &*name.0).filter(|name| !name.is_empty());
        let arguments = function.and_then(|function| function.arguments.as_ref());
        let arguments = arguments.map_or("", |arguments| &arguments.0);
        let id = part.id.as_ref().map(|id| &*id.0);
        let id = id.filter(|id| !id.is_empty());
        let at = self.place(part.index, id, name.is_some());
        if at == self.calls.len() {
            self.calls.push(Call {
                index: part.index.unwrap_or(at),
                ..Call::default()
            });
        }
        self.bytes += arguments.len() + name.map_or(0, str::len) + id.map_or(0, str::len);
        if self.calls.len() > MAX_CALLS || self.bytes > MAX_BYTES {
            return Err("its tool calls are too long");
        }
        let call = &mut self.calls[at];
        // Some servers repeat the id and the name with each fragment.
        if let Some(id) = id.filter(|_| call.id.is_empty()) {
            call.id.push_str(id);
        }
        if let Some(name) = name.filter(|_| call.name.is_empty()) {
            call.name.push_str(name);
        }
        call.arguments.push_str(arguments);
        Ok(())
    }

    /// Where a part belongs. Without an index, a new id or a name begins a new call. With the index of a known
    /// call, only another id with a name does: some servers give each call the index 0, and others give each
    /// fragment an id of its own.
    fn place(&self, index: Option<usize>, id: Option<&str>, has_name: bool) -> usize {
        let new = self.calls.len();
        if let Some(index) = index {
            let known = self.calls.iter().rposition(|call| {
                let is_another =
                    has_name && !call.id.is_empty() && id.is_some_and(|id| id != call.id);
                call.index == index && !is_another
            });
            return known.unwrap_or(new);
        }
        match id {
            Some(id) => {
                let known = self.calls.iter().position(|call| call.id == id);
                known.unwrap_or(new)
            }
            None if has_name => new,
            None => new.saturating_sub(1),
        }
    }

    /// Writes the calls as Ollama's `tool_calls`. `is_cut` means that the answer ended at its limit
    /// of tokens; a call that is incomplete because of that is left out.
    ///
    /// # Errors
    /// The arguments of a call are not a JSON object.
    pub(super) fn write(&self, out: &mut BytesMut, is_cut: bool) -> Result<(), &'static str> {
        out.put_u8(b'[');
        let mut written = 0;
        for call in &self.calls {
            let arguments = match object(&call.arguments) {
                Some(arguments) => arguments,
                None if is_cut => continue,
                None => return Err("the arguments of a tool call are not a JSON object"),
            };
            if written > 0 {
                out.put_u8(b',');
            }
            out.put_u8(b'{');
            if !call.id.is_empty() {
                out.put_slice(b"\"id\":");
                put_quoted(out, &call.id);
                out.put_u8(b',');
            }
            out.put_slice(b"\"function\":{\"index\":");
            out.put_slice(written.to_string().as_bytes());
            out.put_slice(b",\"name\":");
            put_quoted(out, &call.name);
            out.put_slice(b",\"arguments\":");
            put_json_text(out, arguments);
            out.put_slice(b"}}");
            written += 1;
        }
        out.put_u8(b']');
        Ok(())
    }
}

/// The arguments as JSON of one line; some servers send nothing for an empty object.
fn object(arguments: &str) -> Option<&str> {
    let arguments = arguments.trim();
    if arguments.is_empty() {
        return Some("{}");
    }
    let is_json = serde_json::from_str::<&RawValue>(arguments).is_ok();
    (is_json && arguments.starts_with('{')).then_some(arguments)
}

fn put_quoted(out: &mut BytesMut, text: &str) {
    // A text is always JSON.
    let quoted = serde_json::to_string(text).unwrap_or_default();
    put_json_text(out, &quoted);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn calls(parts: &[&str]) -> ToolCalls {
        let mut calls = ToolCalls::default();
        for part in parts {
            calls.add(&serde_json::from_str(part).unwrap()).unwrap();
        }
        calls
    }

    fn written(parts: &[&str], is_cut: bool) -> Result<Value, &'static str> {
        let mut out = BytesMut::new();
        calls(parts).write(&mut out, is_cut)?;
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn fragments_of_several_calls_become_whole_calls() {
        let parts = [
            r#"{"index":0,"id":"c1","type":"function","function":{"name":"add","arguments":""}}"#,
            r#"{"index":0,"function":{"arguments":"{\"a\":"}}"#,
            r#"{"index":1,"id":"c2","function":{"name":"now","arguments":""}}"#,
            r#"{"index":0,"function":{"arguments":"1}"}}"#,
        ];
        let expected = json!([
            {"id": "c1", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}},
            {"id": "c2", "function": {"index": 1, "name": "now", "arguments": {}}},
        ]);
        assert_eq!(written(&parts, false), Ok(expected));
    }

    #[test]
    fn calls_without_an_index_are_told_apart_by_id_or_name() {
        let parts = [
            r#"{"id":"c1","function":{"name":"add","arguments":"{\"a\":1}"}}"#,
            r#"{"id":"c2","function":{"name":"add","arguments":"{\"a\""}}"#,
            r#"{"function":{"arguments":":2}"}}"#,
        ];
        let written = written(&parts, false).unwrap();
        assert_eq!(written[0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(written[1]["function"]["arguments"], json!({"a": 2}));
    }

    #[test]
    fn calls_that_all_have_the_index_0_are_told_apart_by_their_ids() {
        let parts = [
            r#"{"index":0,"id":"c1","function":{"name":"add","arguments":"{\"a\":1}"}}"#,
            r#"{"index":0,"id":"c2","function":{"name":"add","arguments":"{\"a\""}}"#,
            r#"{"index":0,"function":{"arguments":":2}"}}"#,
        ];
        let expected = json!([
            {"id": "c1", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}},
            {"id": "c2", "function": {"index": 1, "name": "add", "arguments": {"a": 2}}},
        ]);
        assert_eq!(written(&parts, false), Ok(expected));
    }

    #[test]
    fn fragments_of_one_call_with_an_id_each_stay_one_call() {
        let parts = [
            r#"{"index":0,"id":"c1","function":{"name":"add","arguments":""}}"#,
            r#"{"index":0,"id":"c2","function":{"arguments":"{\"a\""}}"#,
            r#"{"index":0,"id":"c3","function":{"name":"","arguments":":1}"}}"#,
        ];
        let expected =
            json!([{"id": "c1", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}}]);
        assert_eq!(written(&parts, false), Ok(expected));
    }

    #[test]
    fn repeated_ids_and_names_do_not_grow() {
        let part = r#"{"index":0,"id":"c1","function":{"name":"add","arguments":" "}}"#;
        let written = written(&[part, part], false).unwrap();
        assert_eq!(written[0]["id"], "c1");
        assert_eq!(written[0]["function"]["name"], "add");
    }

    #[test]
    fn arguments_that_are_no_object_are_an_error_unless_the_answer_was_cut() {
        for arguments in [r#"{\"a\":"#, "[1]", "text", "{} {}"] {
            let part =
                format!(r#"{{"index":0,"function":{{"name":"f","arguments":"{arguments}"}}}}"#);
            assert!(written(&[&part], false).is_err(), "{arguments}");
            assert_eq!(written(&[&part], true), Ok(json!([])));
        }
    }

    #[test]
    fn arguments_on_several_lines_become_one_line() {
        let part = r#"{"index":0,"function":{"name":"f","arguments":"{\n \"a\": \"x y\"\r\n}"}}"#;
        let mut out = BytesMut::new();
        calls(&[part]).write(&mut out, false).unwrap();
        assert!(!out.contains(&b'\n') && !out.contains(&b'\r'), "{out:?}");
        let written: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(written[0]["function"]["arguments"], json!({"a": "x y"}));
    }
}
