//! Lines and events in a stream, watched without being copied or cut anew.
//!
//! A stream's frames are handed on as they come; [`Tail`] keeps a reference to the last of them,
//! so that it is known at any time whether the stream stands between two items, and at the end
//! what the last item was. It is looked into once, when the stream has ended.

mod ending;
mod tail;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

pub use ending::StreamEnd;
pub use tail::Tail;

/// How a stream's items are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// One JSON value a line (`application/x-ndjson`).
    Ndjson,
    /// Server-sent events, each ended by an empty line (`text/event-stream`).
    Sse,
}

impl Framing {
    /// The framing that an answer's content type names; `None` if it is no stream.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)?;
        let essence = content_type.split(|&b| b == b';').next()?.trim_ascii();
        match essence {
            b"application/x-ndjson" => Some(Self::Ndjson),
            b"text/event-stream" => Some(Self::Sse),
            _ => None,
        }
    }

    fn separator(self) -> &'static [u8] {
        match self {
            Self::Ndjson => b"\n",
            Self::Sse => b"\n\n",
        }
    }
}
