//! A byte string in several pieces.

use bytes::Bytes;

/// A byte string in the pieces in which it arrived.
#[derive(Clone, Debug, Default)]
pub(super) enum Pieces {
    #[default]
    None,
    One(Bytes),
    Many {
        pieces: Vec<Bytes>,
        len: usize,
    },
    /// Longer than the limit; the bytes were dropped.
    TooLong,
}

impl Pieces {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Adds a piece; beyond `most` bytes, all pieces are dropped.
    pub(super) fn push(&mut self, piece: Bytes, most: usize) {
        if piece.is_empty() {
            return;
        }
        let grown = match std::mem::take(self) {
            Self::None => Self::One(piece),
            Self::One(first) => {
                let len = first.len() + piece.len();
                let pieces = vec![first, piece];
                Self::Many { pieces, len }
            }
            Self::Many { mut pieces, len } => {
                let len = len + piece.len();
                pieces.push(piece);
                Self::Many { pieces, len }
            }
            Self::TooLong => Self::TooLong,
        };
        *self = match &grown {
            Self::One(piece) if piece.len() > most => Self::TooLong,
            Self::Many { len, .. } if *len > most => Self::TooLong,
            _ => grown,
        };
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        let pieces = match self {
            Self::None | Self::TooLong => &[],
            Self::One(piece) => std::slice::from_ref(piece),
            Self::Many { pieces, .. } => pieces,
        };
        pieces.iter()
    }

    /// The contiguous bytes; copied if there is more than one piece.
    pub(super) fn joined(&self) -> Bytes {
        match self {
            Self::None | Self::TooLong => Bytes::new(),
            Self::One(piece) => piece.clone(),
            Self::Many { pieces, .. } => pieces.concat().into(),
        }
    }
}
