//! Lines and events in a stream, watched without being copied or cut anew.
//!
//! An answer passes through as the frames it came in. Beside it a [`Tail`] is shown each frame
//! and knows two things: whether the stream stands between two items, where something may be
//! added to it, and what the last whole item is, which says whether the stream is complete.
//!
//! ```text
//! frames   {"a":1}\n | {"b" | :2}\n | {"done":true}\n |
//! boundary           ^             ^                  ^
//! last item           {"a":1}       {"b":2}            {"done":true}
//! ```
//!
//! The common frame is one item, whole; it costs a look at its ends and a reference count.
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
//! How an answer is framed, and what ends it, follow from its head and its route:
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

/// How the items of a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// One JSON value a line (`application/x-ndjson`).
    Ndjson,
    /// Server-sent events, each followed by an empty line (`text/event-stream`).
    ///
    /// Lines end with LF or CRLF. A lone CR, which the standard allows too, is not taken for the
    /// end of a line: no server of models sends it, and the mistake is on the safe side.
    Sse,
}

impl Framing {
    /// The framing of an answer with these headers; `None` if it is no stream of items, or one
    /// that cannot be read because it is compressed.
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
