//! What of an answer goes to the client as one chunk.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use llamatower_layers::frames::Framing;
use memchr::memchr;

/// Hands the lines of a stream on one at a time.
///
/// Ollama writes each as a chunk of its own, and there are clients that take a chunk for a line.
/// What has come together passes through the stack in one piece, and is cut only here. A piece that
/// is no whole line goes on as it came: nobody waits for the rest of it.
#[derive(Debug)]
pub(super) struct Chunking {
    /// Newline-delimited JSON that is sent in chunks; all else goes on as it comes.
    is_lines: bool,
    rest: Bytes,
}

impl Chunking {
    /// That of an answer with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            is_lines: Framing::of(headers) == Some(Framing::Ndjson)
                && !headers.contains_key(CONTENT_LENGTH),
            rest: Bytes::new(),
        }
    }

    /// The first chunk of what has come; the others wait.
    pub(super) fn first_of(&mut self, data: Bytes) -> Bytes {
        if !self.is_lines {
            return data;
        }
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
        match memchr(b'\n', &self.rest).map(|at| at + 1) {
            Some(end) if end < self.rest.len() => self.rest.split_to(end),
            _ => std::mem::take(&mut self.rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

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
    fn all_else_goes_on_as_it_came() {
        assert_eq!(chunks("application/json", "{\n}\n"), ["{\n}\n"]);
        let together = "data: {}\n\ndata: [DONE]\n\n";
        assert_eq!(chunks("text/event-stream", together), [together]);
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
