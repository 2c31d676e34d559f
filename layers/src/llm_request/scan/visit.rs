//! What the machine tells of what it comes by.

use std::ops::Range;

/// Members this deep are told to the visitor, deeper ones are only checked.
pub(super) const TOLD_DEPTH: u32 = 2;

/// Who is told what the machine comes by, down to [`TOLD_DEPTH`].
pub(super) trait Visitor {
    /// A key begins in an object that lies `depth` deep: how many bytes of it to keep.
    fn begin_key(&self, depth: u32) -> usize;
    /// The key as it stands between its quotes.
    fn key(&mut self, depth: u32, key: Kept<'_>);
    /// The value of that key begins: how many bytes of it to keep, if it is no container.
    fn begin_value(&self, depth: u32) -> usize;
    /// The value of the last key at that depth, and where it stands in the input.
    fn value(&mut self, depth: u32, value: Value<'_>, span: Range<u64>);
}

/// The first bytes of a string or number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept<'a> {
    pub(super) raw: &'a [u8],
    /// Whether there were more bytes than were to be kept.
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

/// What a value's first byte says that it is.
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
    /// Go's word for it.
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
