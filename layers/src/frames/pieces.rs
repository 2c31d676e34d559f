//! Bytes that belong together and lie apart.

use bytes::Bytes;

/// A run of bytes in the pieces it came in.
#[derive(Clone, Debug, Default)]
pub(super) enum Pieces {
    #[default]
    None,
    One(Bytes),
    Many {
        pieces: Vec<Bytes>,
        len: usize,
    },
    /// More than is held; only that it is there is known.
    TooLong,
}

impl Pieces {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Adds a piece; what grows beyond `most` bytes is let go of.
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

    /// All of it in a row; a copy if it lies in more than one piece.
    pub(super) fn joined(&self) -> Bytes {
        match self {
            Self::None | Self::TooLong => Bytes::new(),
            Self::One(piece) => piece.clone(),
            Self::Many { pieces, .. } => pieces.concat().into(),
        }
    }
}
