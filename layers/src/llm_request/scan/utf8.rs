//! Validates UTF-8 in pieces.

use std::str;

/// The bytes of a character that the last piece has cut.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    partial: [u8; 4],
    len: usize,
}

impl Utf8 {
    /// How many of the next bytes are valid. A character that is cut by the end counts as valid
    /// until the next bytes show otherwise.
    pub(super) fn valid_prefix(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.len > 0 {
            let Some(&byte) = bytes.get(taken) else {
                return taken;
            };
            self.partial[self.len] = byte;
            match str::from_utf8(&self.partial[..=self.len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => self.len += 1,
                Err(_) => return taken,
            }
            taken += 1;
        }
        let rest = &bytes[taken..];
        let Err(error) = str::from_utf8(rest) else {
            return bytes.len();
        };
        let valid = error.valid_up_to();
        if error.error_len().is_some() {
            return taken + valid;
        }
        // At most three bytes; four would be a whole character.
        let cut = &rest[valid..];
        self.partial[..cut.len()].copy_from_slice(cut);
        self.len = cut.len();
        bytes.len()
    }
}
