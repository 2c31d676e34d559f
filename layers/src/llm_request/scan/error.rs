//! What is wrong with a body.

use std::borrow::Cow;
use std::fmt;

/// What is wrong with a body. The texts are Go's where Go has one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScanError {
    /// There is nothing but white space.
    Empty,
    /// The input breaks off within the value.
    UnexpectedEnd,
    /// A byte that cannot stand where it stands.
    InvalidCharacter {
        /// The byte.
        byte: u8,
        /// Where it stands.
        place: Cow<'static, str>,
    },
    /// Text that is not UTF-8.
    InvalidUtf8,
    /// Arrays and objects nest too deep.
    TooDeep,
    /// The value is JSON, but no object.
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A key's value is of another type than it must be.
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
    AmbiguousKey {
        /// The key as it should be written.
        key: &'static str,
    },
    /// The model's name is none.
    InvalidModelName,
    /// The body is said to be zstd and is not.
    InvalidZstd,
    /// The body is said to be a form and is not.
    InvalidForm,
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("missing request body"),
            Self::UnexpectedEnd => f.write_str("unexpected EOF"),
            Self::InvalidCharacter { byte, place } => {
                write!(f, "invalid character {} {place}", Quoted(*byte))
            }
            Self::InvalidUtf8 => f.write_str("the request body must be UTF-8"),
            Self::TooDeep => write!(
                f,
                "the request body nests deeper than {} levels",
                super::MAX_DEPTH
            ),
            Self::NotAnObject { found } => {
                write!(f, "the request body must be a JSON object, not {found}")
            }
            Self::WrongType {
                key,
                found,
                expected,
            } => write!(f, "{key:?} must be of type {expected}, not {found}"),
            Self::AmbiguousKey { key } => write!(
                f,
                "the key {key:?} must stand once in the request, and in lower case"
            ),
            Self::InvalidModelName => f.write_str("invalid model name"),
            Self::InvalidZstd => f.write_str("failed to decompress zstd body"),
            Self::InvalidForm => f.write_str("the request body is no multipart/form-data"),
        }
    }
}

impl std::error::Error for ScanError {}

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
