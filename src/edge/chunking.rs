//! What of an answer goes to the client as one chunk.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use memchr::memchr_iter;

/// Hands the data of a stream on a line or an event at a time.
///
/// Ollama writes each as a chunk of its own, and there are clients that take a chunk for a line.
/// What has come together passes through the stack in one piece, and is cut only here. A piece that
/// is no whole line goes on as it came: nobody waits for the rest of it.
#[derive(Debug)]
pub(super) struct Chunking {
    unit: Unit,
    rest: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Newline-delimited JSON.
    Line,
    /// Server-sent events, which end with an empty line.
    Event,
    /// Whatever else, or nothing that is sent in chunks: as it comes.
    Piece,
}

impl Chunking {
    /// That of an answer with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let unit = match headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes) {
            _ if headers.contains_key(CONTENT_LENGTH) => Unit::Piece,
            Some(kind) if kind.starts_with(b"application/x-ndjson") => Unit::Line,
            Some(kind) if kind.starts_with(b"text/event-stream") => Unit::Event,
            _ => Unit::Piece,
        };
        Self {
            unit,
            rest: Bytes::new(),
        }
    }

    /// The first chunk of what has come; the others wait.
    pub(super) fn first_of(&mut self, data: Bytes) -> Bytes {
        self.rest = data;
        self.take()
    }

    /// The next chunk that waits.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        (!self.is_empty()).then(|| self.take())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self) -> Bytes {
        match self.unit.end_in(&self.rest) {
            Some(end) if end < self.rest.len() => self.rest.split_to(end),
            _ => std::mem::take(&mut self.rest),
        }
    }
}

impl Unit {
    /// Where the first line or event ends.
    fn end_in(self, data: &[u8]) -> Option<usize> {
        let mut ends = memchr_iter(b'\n', data).map(|at| at + 1);
        match self {
            Self::Line => ends.next(),
            Self::Event => ends.find(|end| data[..*end].ends_with(b"\n\n")),
            Self::Piece => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn chunks(kind: &'static str, data: &'static str) -> Vec<Bytes> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let mut chunking = Chunking::of(&headers);
        let first = chunking.first_of(Bytes::from_static(data.as_bytes()));
        let rest = std::iter::from_fn(|| chunking.next());
        std::iter::once(first).chain(rest).collect()
    }

    #[test]
    fn lines_that_came_together_are_a_chunk_each() {
        let expected = ["{}\n", "{\"a\":1}\n", "{\"b"];
        assert_eq!(
            chunks("application/x-ndjson", "{}\n{\"a\":1}\n{\"b"),
            expected
        );
    }

    #[test]
    fn events_that_came_together_are_a_chunk_each() {
        let expected = ["event: a\ndata: 1\n\n", "data: [DONE]\n\n", "data"];
        let data = "event: a\ndata: 1\n\ndata: [DONE]\n\ndata";
        assert_eq!(chunks("text/event-stream; charset=utf-8", data), expected);
    }

    #[test]
    fn all_else_goes_on_as_it_came() {
        assert_eq!(chunks("application/json", "{\n}\n"), ["{\n}\n"]);
    }

    #[test]
    fn what_has_a_length_is_not_sent_in_chunks() {
        let headers = HeaderMap::from_iter([
            (
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-ndjson"),
            ),
            (CONTENT_LENGTH, HeaderValue::from_static("6")),
        ]);
        let mut chunking = Chunking::of(&headers);
        assert_eq!(
            chunking.first_of(Bytes::from_static(b"{}\n{}\n")),
            "{}\n{}\n"
        );
    }
}
