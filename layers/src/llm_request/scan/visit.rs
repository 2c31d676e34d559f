//! The interface between the state machine and the collector.

use std::ops::Range;

/// Members up to this depth are reported to the visitor with their values; deeper ones are only
/// validated.
pub(super) const REPORTED_DEPTH: u32 = 3;
/// Keys up to this depth are reported: that of an image in the result of a tool.
pub(super) const REPORTED_KEYS: u32 = 8;

/// Receives the keys and values of the state machine, down to [`REPORTED_DEPTH`]; the keys down to
/// [`REPORTED_KEYS`].
pub(super) trait Visitor {
    /// A key begins in an object at this depth. Returns how many bytes of it to keep.
    fn begin_key(&self, depth: u32) -> usize;
    /// The raw key between its quotes, and the position of its end in the input.
    fn key(&mut self, depth: u32, key: Kept<'_>, end: u64);
    /// The value of that key begins, at this position in the input. Returns how many bytes of it
    /// to keep, if it is not a container.
    fn begin_value(&mut self, depth: u32, at: u64) -> usize;
    /// The value of the last key at that depth, and its position in the input.
    fn value(&mut self, depth: u32, value: Value<'_>, span: Range<u64>);
}

/// The first bytes of a string or number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept<'a> {
    pub(super) raw: &'a [u8],
    /// Whether there were more bytes than were kept.
    pub(super) is_cut: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Kept<'a>),
    String(Kept<'a>),
    Array { is_empty: bool },
    Object { is_empty: bool },
}

/// The type of a value, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// Go's name of the type.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}
