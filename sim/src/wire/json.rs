//! Writes JSON like Go's `encoding/json`.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Compact, with `<`, `>`, `&`, U+2028 and U+2029 escaped, like `json.Marshal`.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let c = rest[at..].chars().next().unwrap_or_default();
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Appends a value.
pub(crate) fn push<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Writing to memory cannot fail, and all values here have string keys.
    let written = value.serialize(&mut Serializer::with_formatter(out, GoFormatter));
    debug_assert!(written.is_ok(), "{written:?}");
}

/// A value as bytes.
pub(crate) fn to_vec<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    push(&mut out, value);
    out
}

/// A value as text.
pub(crate) fn to_string<T: Serialize + ?Sized>(value: &T) -> String {
    String::from_utf8(to_vec(value)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_same_characters_are_escaped_as_in_go() {
        let text = "a<b>&\u{2028}\u{2029}\u{85}\"\\\n\u{1}\u{8}é";
        assert_eq!(
            super::to_string(text),
            "\"a\\u003cb\\u003e\\u0026\\u2028\\u2029\u{85}\\\"\\\\\\n\\u0001\\bé\""
        );
    }
}
