//! How a stream ended.

use serde::Deserialize;

use super::{Framing, Tail};
use crate::{Dialect, Operation};

/// What the end of a stream says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The item that ends a whole answer came last.
    Complete,
    /// The server itself said that it failed.
    ErrorSeen,
    /// Something is missing.
    Unfinished,
}

impl Tail {
    /// Judges a stream that has no further frame, by what its dialect sends last.
    ///
    /// Ollama loses an error in the middle of its `/v1` streams: they just end, without their
    /// terminal event.
    pub fn end(&self, dialect: Dialect, operation: Operation) -> StreamEnd {
        if !self.is_at_boundary() {
            return StreamEnd::Unfinished;
        }
        let item = self.last_item();
        let end = match self.framing() {
            Framing::Ndjson => end_of_lines(&item),
            Framing::Sse => end_of_events(&item, dialect),
        };
        match end {
            StreamEnd::Unfinished if has_no_known_end(operation) => StreamEnd::Complete,
            end => end,
        }
    }
}

/// The lines of a pull or a create end with a status of their own choice, and what a path that
/// was allowed by name sends is not known at all.
fn has_no_known_end(operation: Operation) -> bool {
    operation.is_management() || operation == Operation::Extra
}

fn end_of_lines(line: &[u8]) -> StreamEnd {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        done: bool,
        error: Option<serde::de::IgnoredAny>,
    }
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return StreamEnd::Unfinished;
    };
    match line {
        Line { error: Some(_), .. } => StreamEnd::ErrorSeen,
        Line { done: true, .. } => StreamEnd::Complete,
        _ => StreamEnd::Unfinished,
    }
}

fn end_of_events(event: &[u8], dialect: Dialect) -> StreamEnd {
    let field = |name: &[u8]| {
        let mut lines = event.split(|&b| b == b'\n');
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(<[u8]>::trim_ascii)
    };
    let data = field(b"data:").unwrap_or_default();
    match (dialect, field(b"event:")) {
        (_, Some(b"error")) => StreamEnd::ErrorSeen,
        (Dialect::Anthropic, Some(b"message_stop")) => StreamEnd::Complete,
        (
            Dialect::Responses,
            Some(b"response.completed" | b"response.incomplete" | b"response.failed"),
        ) => StreamEnd::Complete,
        (Dialect::OpenAi, _) if data == b"[DONE]" => StreamEnd::Complete,
        (Dialect::OpenAi, _) if data.starts_with(b"{\"error\"") => StreamEnd::ErrorSeen,
        _ => StreamEnd::Unfinished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(
        framing: Framing,
        dialect: Dialect,
        operation: Operation,
        text: &'static str,
    ) -> StreamEnd {
        let mut tail = Tail::new(framing);
        tail.push(&text.into());
        tail.end(dialect, operation)
    }

    #[test]
    fn a_native_stream_ends_with_done_or_an_error() {
        let chat = |text| end(Framing::Ndjson, Dialect::Ollama, Operation::Chat, text);
        assert_eq!(
            chat("{\"done\":false}\n{\"done\":true,\"eval_count\":3}\n"),
            StreamEnd::Complete
        );
        assert_eq!(chat("{\"error\":\"it broke\"}\n"), StreamEnd::ErrorSeen);
        assert_eq!(
            chat("{\"message\":{\"done\":true},\"done\":false}\n"),
            StreamEnd::Unfinished
        );
        assert_eq!(chat("{\"done\":true}"), StreamEnd::Unfinished);
        assert_eq!(chat(""), StreamEnd::Unfinished);
        let create = |text| end(Framing::Ndjson, Dialect::Ollama, Operation::Create, text);
        assert_eq!(create("{\"status\":\"success\"}\n"), StreamEnd::Complete);
    }

    #[test]
    fn an_event_stream_ends_as_its_dialect_has_it() {
        use Dialect::{Anthropic, OpenAi, Responses};
        for (dialect, text, expected) in [
            (OpenAi, "data: {}\n\ndata: [DONE]\n\n", StreamEnd::Complete),
            (OpenAi, "data: {\"choices\":[]}\n\n", StreamEnd::Unfinished),
            (OpenAi, "data: {\"error\":{}}\n\n", StreamEnd::ErrorSeen),
            (
                Anthropic,
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
                StreamEnd::Complete,
            ),
            (
                Anthropic,
                "event: content_block_delta\ndata: {}\n\n",
                StreamEnd::Unfinished,
            ),
            (
                Anthropic,
                "event: error\ndata: {}\n\n",
                StreamEnd::ErrorSeen,
            ),
            (
                Responses,
                "event: response.completed\ndata: {}\n\n",
                StreamEnd::Complete,
            ),
            (
                Responses,
                "event: response.output_text.delta\ndata: {}\n\n",
                StreamEnd::Unfinished,
            ),
        ] {
            assert_eq!(
                end(Framing::Sse, dialect, Operation::Chat, text),
                expected,
                "{text}"
            );
        }
    }
}
