//! The last pieces of a response.

use std::collections::VecDeque;

use bytes::Bytes;

/// The minimum number of bytes to keep when earlier pieces may matter. In the recordings of Ollama,
/// the counts are within 400 bytes of the end, in every dialect.
const KEPT: usize = 1024;

/// The last pieces that passed. They are held without a copy, because a backend's connection
/// allocates separate memory for each piece.
#[derive(Debug, Default)]
pub(super) struct LastPieces {
    last: Bytes,
    /// The pieces before it, as far as they may matter.
    before: VecDeque<Bytes>,
    bytes_before: usize,
}

impl LastPieces {
    /// Takes a piece that makes all earlier pieces unnecessary, for example a complete line.
    pub(super) fn replace(&mut self, piece: &Bytes) {
        if self.bytes_before > 0 {
            self.before = VecDeque::new();
            self.bytes_before = 0;
        }
        self.last = piece.clone();
    }

    /// Takes a piece that continues the earlier ones.
    pub(super) fn push(&mut self, piece: &Bytes) {
        let before = std::mem::replace(&mut self.last, piece.clone());
        if before.is_empty() {
            return;
        }
        self.bytes_before += before.len();
        self.before.push_back(before);
        while let Some(first) = self.before.front()
            && self.bytes_before - first.len() + self.last.len() >= KEPT
        {
            self.bytes_before -= first.len();
            self.before.pop_front();
        }
    }

    /// Calls `read` with the end of the response, in one piece.
    pub(super) fn with<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        let last = &self.last[self.last.len().saturating_sub(2 * KEPT)..];
        if self.before.is_empty() || last.len() >= KEPT {
            return read(last);
        }
        let mut whole: Vec<u8> = self.before.iter().flatten().copied().collect();
        whole.extend_from_slice(last);
        read(&whole[whole.len().saturating_sub(2 * KEPT)..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_last_bytes_are_kept_with_any_split(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 0..12)
        ) {
            let mut last = LastPieces::default();
            for piece in &pieces {
                last.push(&Bytes::copy_from_slice(piece));
            }
            let all = pieces.concat();
            last.with(|end| {
                prop_assert!(all.ends_with(end));
                prop_assert!(end.len() >= all.len().min(KEPT));
                prop_assert!(end.len() <= 2 * KEPT);
                Ok(())
            })?;
            prop_assert!(last.bytes_before < 2 * KEPT + 1500);
        }
    }

    #[test]
    fn a_complete_line_replaces_earlier_pieces() {
        let mut last = LastPieces::default();
        last.push(&Bytes::from_static(b"half"));
        last.push(&Bytes::from_static(b" a line\n"));
        last.replace(&Bytes::from_static(b"a line\n"));
        last.with(|end| assert_eq!(end, b"a line\n"));
        last.push(&Bytes::from_static(b"more"));
        last.with(|end| assert_eq!(end, b"a line\nmore"));
    }
}
