//! The fields of a head (RFC 9112 5).

use std::cell::RefCell;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::decode::Malformed;

/// Fields of a head may be so many.
pub(crate) const MAX_FIELDS: usize = 100;

/// The reason phrase of an answer whose status has another one by itself. It is handed on, as some
/// clients show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReasonPhrase(pub(crate) HeaderValue);

/// A thread keeps so many maps at most, each for so many fields.
const MOST_SPARE: usize = 8;
const LARGEST_SPARE: usize = 48;

thread_local! {
    /// A head of ten fields needs more memory than an allocator gives quickly, and how slowly
    /// depends on all else that lies in the heap. Each map ends where it is written to a wire, and
    /// is then used for the next head that is read.
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map for about so many fields.
pub(crate) fn take_map(fields: usize) -> HeaderMap {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| HeaderMap::with_capacity(fields))
}

/// Keeps the memory of a map whose fields have been written.
pub(crate) fn keep_map(mut map: HeaderMap) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST_SPARE && (1..=LARGEST_SPARE).contains(&map.capacity()) {
            map.clear();
            spare.push(map);
        }
    });
}

/// A field of `head`, its value a part of `shared`, which is a copy of it: the values of a head
/// share one allocation.
pub(crate) fn field(
    row: &httparse::Header<'_>,
    head: &[u8],
    shared: &Bytes,
) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(row.name.as_bytes()).ok()?;
    let value = part(row.value, head, shared);
    Some((name, HeaderValue::from_maybe_shared(value).ok()?))
}

/// What is `part` of `head`, in the copy of it.
pub(crate) fn part(part: &[u8], head: &[u8], shared: &Bytes) -> Bytes {
    let begin = part.as_ptr().addr() - head.as_ptr().addr();
    shared.slice(begin..begin + part.len())
}

/// Writes the fields as they stand in a head, without the empty line that ends it.
pub(crate) fn write_fields(headers: &HeaderMap, wire: &mut Vec<u8>) {
    for (name, value) in headers {
        wire.extend_from_slice(name.as_str().as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
}

/// Whether `Connection` has this option (RFC 9110 7.6.1).
pub(crate) fn has_connection_option(headers: &HeaderMap, option: &[u8]) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| is_listed(value, option))
}

/// Whether a list with commas has this word.
fn is_listed(value: &HeaderValue, word: &[u8]) -> bool {
    let mut words = value.as_bytes().split(|byte| *byte == b',');
    words.any(|other| other.trim_ascii().eq_ignore_ascii_case(word))
}

/// How long a head says that its body is, in bytes.
///
/// # Errors
/// Two readers could take it differently (RFC 9112 6.3).
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else {
        return Ok(None);
    };
    if lengths.any(|other| other != first) {
        return Err(Malformed("it has two lengths"));
    }
    let digits = first
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(length) => Ok(Some(length)),
        None => Err(Malformed("its length is no number")),
    }
}

/// The same of a head that the gateway is about to write: what no reader could rely on is left out.
pub(crate) fn settled_length(headers: &mut HeaderMap) -> Option<u64> {
    content_length(headers).unwrap_or_else(|_| {
        headers.remove(CONTENT_LENGTH);
        None
    })
}
