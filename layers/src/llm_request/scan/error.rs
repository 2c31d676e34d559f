//! Errors in a body.

use std::borrow::Cow;
use std::fmt;

/// An error in a body. The texts are Go's, where Go has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The body is empty or white space.
    #[error("missing request body")]
    Empty,
    /// The input ends within the value.
    #[error("unexpected EOF")]
    UnexpectedEnd,
    /// A byte that is not allowed in its place.
    #[error("invalid character {} {place}", Quoted(*.byte))]
    InvalidCharacter {
        /// The byte.
        byte: u8,
        /// The place, in Go's words.
        place: Cow<'static, str>,
    },
    /// Text that is not UTF-8.
    #[error("the request body must be UTF-8")]
    InvalidUtf8,
    /// Arrays and objects nest too deep.
    #[error("the request body nests deeper than {} levels", super::MAX_DEPTH)]
    TooDeep,
    /// The value is JSON, but not an object.
    #[error("the request body must be a JSON object, not {found}")]
    NotAnObject {
        /// The type of the value.
        found: &'static str,
    },
    /// The value of a key has the wrong type.
    #[error("{key:?} must be of type {expected}, not {found}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// The type of the value.
        found: &'static str,
        /// The expected type.
        expected: &'static str,
    },
    /// A key that the gateway uses occurs twice, or in another case, so that two parsers could
    /// understand different things.
    #[error("the key {key:?} must occur once in the request, and in lower case")]
    AmbiguousKey {
        /// The correct spelling of the key.
        key: &'static str,
    },
    /// The model's name is invalid.
    #[error("invalid model name")]
    InvalidModelName,
    /// The body is declared as zstd but is not.
    #[error("failed to decompress zstd body")]
    InvalidZstd,
    /// The body is declared as a form but is not.
    #[error("the request body is not multipart/form-data")]
    InvalidForm,
}

/// A byte as quoted in Go's JSON errors: as the character with that number.
struct Quoted(u8);

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\'' => f.write_str(r"'\''"),
            b'\\' => f.write_str(r"'\\'"),
            0x07 => f.write_str(r"'\a'"),
            0x08 => f.write_str(r"'\b'"),
            0x0c => f.write_str(r"'\f'"),
            b'\n' => f.write_str(r"'\n'"),
            b'\r' => f.write_str(r"'\r'"),
            b'\t' => f.write_str(r"'\t'"),
            0x0b => f.write_str(r"'\v'"),
            byte @ (0x00..0x20 | 0x7f) => write!(f, r"'\x{byte:02x}'"),
            byte @ (0x80..=0xa0 | 0xad) => write!(f, r"'\u{byte:04x}'"),
            byte => write!(f, "'{}'", char::from(byte)),
        }
    }
}
