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
    /// depends on all else that lies in the heap. Most maps end where they are written to a wire,
    /// and are then used for the next head that is read.
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map for about so many fields.
pub(crate) fn take_map(fields: usize) -> HeaderMap {
    match SPARE.with_borrow_mut(Vec::pop) {
        Some(mut spare) => {
            spare.reserve(fields);
            spare
        }
        None => HeaderMap::with_capacity(fields),
    }
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
    match number(first.as_bytes()) {
        Some(length) => Ok(Some(length)),
        None => Err(Malformed("its length is no number")),
    }
}

/// The number that these digits are, without a sign or blanks.
fn number(digits: &[u8]) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    rest.iter().try_fold(digit(first)?, |number, byte| {
        number.checked_mul(10)?.checked_add(digit(byte)?)
    })
}

/// The same of a head that the gateway is about to write, which says it once from then on, or not at
/// all if no reader could rely on it.
pub(crate) fn settled_length(headers: &mut HeaderMap) -> Option<u64> {
    let length = content_length(headers);
    match length {
        Ok(None) => return None,
        Ok(Some(_)) => {
            let mut others = headers.get_all(CONTENT_LENGTH).iter().skip(1);
            if let Some(same) = others.next().cloned() {
                headers.insert(CONTENT_LENGTH, same);
            }
        }
        Err(_) => {
            headers.remove(CONTENT_LENGTH);
        }
    }
    length.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        let length = |values: &[&'static str]| {
            let values = values.iter().map(|value| HeaderValue::from_static(value));
            let map = values.map(|value| (CONTENT_LENGTH, value));
            content_length(&map.fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            }))
        };
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["0"]), Ok(Some(0)));
        assert_eq!(length(&["007"]), Ok(Some(7)));
        assert_eq!(length(&["4", "4"]), Ok(Some(4)));
        assert_eq!(length(&["18446744073709551615"]), Ok(Some(u64::MAX)));
        for wrong in ["", "+1", "-1", "1 ", "1,1", "0x1", "18446744073709551616"] {
            assert!(length(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(length(&["4", "5"]).is_err());
    }

    #[test]
    fn a_map_that_is_used_again_has_nothing_of_its_last_fields() {
        let mut map = take_map(4);
        map.append(CONNECTION, HeaderValue::from_static("close"));
        map.append(CONNECTION, HeaderValue::from_static("x"));
        keep_map(map);
        let again = take_map(20);
        assert!(again.is_empty() && again.get_all(CONNECTION).iter().next().is_none());
        assert!(again.capacity() >= 20);
    }

    #[test]
    fn a_thread_keeps_few_maps_and_no_large_ones() {
        for _ in 0..3 * MOST_SPARE {
            keep_map(HeaderMap::with_capacity(4));
            keep_map(HeaderMap::with_capacity(2 * LARGEST_SPARE));
        }
        let kept = SPARE.with_borrow(|spare| spare.iter().map(HeaderMap::capacity).max());
        assert!(kept.is_some_and(|largest| largest <= LARGEST_SPARE));
        assert_eq!(SPARE.with_borrow(Vec::len), MOST_SPARE);
    }
}
