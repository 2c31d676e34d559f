//! The last bytes of a stream.

/// So many are kept at least. The recordings of Ollama have their counts within 400 bytes of the
/// end, in every dialect.
const KEPT: usize = 1024;

/// A copy of the last bytes that passed. A copy, as to hold on to the frames would keep the
/// whole read buffers that they are a part of.
#[derive(Debug, Default)]
pub(super) struct LastBytes {
    bytes: Vec<u8>,
}

impl LastBytes {
    pub(super) fn push(&mut self, frame: &[u8]) {
        if frame.len() >= KEPT {
            self.bytes.clear();
            self.bytes.extend_from_slice(&frame[frame.len() - KEPT..]);
            return;
        }
        if self.bytes.len() + frame.len() > 2 * KEPT {
            let older = self.bytes.len() + frame.len() - KEPT;
            self.bytes.drain(..older.min(self.bytes.len()));
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(2 * KEPT);
        }
        self.bytes.extend_from_slice(frame);
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_the_splits_the_last_bytes_are_there(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 0..12)
        ) {
            let mut last = LastBytes::default();
            for frame in &frames {
                last.push(frame);
            }
            let all = frames.concat();
            prop_assert!(all.ends_with(last.as_slice()));
            prop_assert!(last.as_slice().len() >= all.len().min(KEPT));
            prop_assert!(last.as_slice().len() <= 2 * KEPT);
        }
    }
}
