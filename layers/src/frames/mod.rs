//! Tracks lines and events in a stream, without copying or splitting them.
//!
//! A response's frames pass unchanged. A [`Tail`] sees each frame and knows two things: whether the
//! stream is between two items, where something may be added, and the last complete item, which
//! shows whether the stream is complete.
//!
//! ```text
//! frames   {"a":1}\n | {"b" | :2}\n | {"done":true}\n |
//! boundary           ^             ^                  ^
//! last item           {"a":1}       {"b":2}            {"done":true}
//! ```
//!
//! Most frames are one whole item; such a frame costs a check of its ends and a reference count.
//!
//! ```
//! use bytes::Bytes;
//! use llamatower_layers::frames::{EndRule, Framing, StreamEnd, Tail};
//!
//! let mut tail = Tail::new(Framing::Ndjson);
//! tail.push(&Bytes::from("{\"response\":\"Hel"));
//! assert!(!tail.is_at_boundary());
//! tail.push(&Bytes::from("lo\"}\n"));
//! assert!(tail.is_at_boundary());
//! assert_eq!(tail.end(EndRule::Done), StreamEnd::Unfinished);
//! tail.push(&Bytes::from("{\"done\":true}\n"));
//! assert_eq!(tail.end(EndRule::Done), StreamEnd::Complete);
//! ```
//!
//! The framing of a response, and its end, follow from its head and its route:
//!
//! ```
//! # use llamatower_layers::frames::{EndRule, Framing};
//! use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
//! use llamatower_layers::{Dialect, Operation};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
//! let framing = Framing::of(&headers).expect("a stream");
//! let rule = EndRule::of(framing, Dialect::Anthropic, Some(Operation::Chat));
//! assert_eq!(rule, EndRule::MessageStop);
//! ```

mod end;
mod opening;
mod pieces;
mod tail;
#[cfg(test)]
mod tests;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

pub use end::{EndRule, StreamEnd};
pub use opening::Opening;
pub use tail::{MAX_HELD_BYTES, Tail};

/// How items are separated in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// One JSON value per line (`application/x-ndjson`).
    Ndjson,
    /// Server-sent events, each followed by an empty line (`text/event-stream`).
    ///
    /// Lines end with LF or CRLF. A lone CR, which the standard also allows, is not treated as the
    /// end of a line: no LLM server sends it, and the mistake is on the safe side.
    Sse,
}

impl Framing {
    /// The framing of a response with these headers; `None` if it is not a stream of items or is
    /// compressed.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(CONTENT_TYPE)?.as_bytes();
        let end = memchr::memchr(b';', content_type).unwrap_or(content_type.len());
        let framing = match content_type[..end].trim_ascii() {
            essence if essence.eq_ignore_ascii_case(b"application/x-ndjson") => Self::Ndjson,
            essence if essence.eq_ignore_ascii_case(b"text/event-stream") => Self::Sse,
            _ => return None,
        };
        let is_plain = |coding: &http::HeaderValue| {
            coding.is_empty() || coding.as_bytes().eq_ignore_ascii_case(b"identity")
        };
        headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .all(is_plain)
            .then_some(framing)
    }
}
