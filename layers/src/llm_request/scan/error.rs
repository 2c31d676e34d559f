//! What is wrong with a body.

use std::borrow::Cow;
use std::fmt;

/// What is wrong with a body. The texts are Go's where Go has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// There is nothing but white space.
    #[error("missing request body")]
    Empty,
    /// The input breaks off within the value.
    #[error("unexpected EOF")]
    UnexpectedEnd,
    /// A byte that cannot stand where it stands.
    #[error("invalid character {} {place}", Quoted(*.byte))]
    InvalidCharacter {
        /// The byte.
        byte: u8,
        /// Where it stands.
        place: Cow<'static, str>,
    },
    /// Text that is not UTF-8.
    #[error("the request body must be UTF-8")]
    InvalidUtf8,
    /// Arrays and objects nest too deep.
    #[error("the request body nests deeper than {} levels", super::MAX_DEPTH)]
    TooDeep,
    /// The value is JSON, but no object.
    #[error("the request body must be a JSON object, not {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A key's value is of another type than it must be.
    #[error("{key:?} must be of type {expected}, not {found}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// The type of its value.
        found: &'static str,
        /// The type that it must have.
        expected: &'static str,
    },
    /// A key that the gateway acts on stands twice, or in another case, so that two readers
    /// might understand two things.
    #[error("the key {key:?} must stand once in the request, and in lower case")]
    AmbiguousKey {
        /// The key as it should be written.
        key: &'static str,
    },
    /// The model's name is none.
    #[error("invalid model name")]
    InvalidModelName,
    /// The body is said to be zstd and is not.
    #[error("failed to decompress zstd body")]
    InvalidZstd,
    /// The body is said to be a form and is not.
    #[error("the request body is no multipart/form-data")]
    InvalidForm,
}

/// A byte as Go's JSON errors quote it: as the character of that number.
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
