//! The current position in a stream.

use bytes::Bytes;
use memchr::memrchr;
use serde::de::IgnoredAny;

use super::end::next_sequence_number;
use super::pieces::Pieces;
use super::{EndRule, Framing, StreamEnd};

/// Limit of a stored item, 16 MiB. Ollama reads lines of at most 8 MB; longer items pass too, but
/// are not parsed.
pub const MAX_HELD_BYTES: usize = 16 << 20;

/// Tracks a stream of lines or events, frame by frame.
///
/// Blank lines, and events with only comments, are not items.
#[derive(Clone, Debug)]
pub struct Tail {
    framing: Framing,
    /// Complete items; the last of them is the stream's last.
    complete: Pieces,
    /// The bytes after the last boundary.
    partial: Pieces,
    /// SSE: whether the current, unfinished line has a byte other than CR.
    is_in_line: bool,
}

impl Tail {
    /// A stream that has not begun.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            complete: Pieces::None,
            partial: Pieces::None,
            is_in_line: false,
        }
    }

    /// How the stream is framed.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the stream is between two items, or before the first.
    pub fn is_at_boundary(&self) -> bool {
        self.partial.is_none()
    }

    /// Adds the stream's next bytes, and keeps them as long as they are the last.
    pub fn push(&mut self, frame: &Bytes) {
        if self.partial.is_none() && self.framing.is_whole_items(frame) {
            self.complete = Pieces::One(frame.clone());
        } else {
            self.push_any(frame);
        }
    }

    fn push_any(&mut self, frame: &Bytes) {
        let begins_in_line = self.is_in_line;
        self.push_line(frame);
        let Some(end) = self.framing.last_boundary(frame, begins_in_line) else {
            self.partial.push(frame.clone(), MAX_HELD_BYTES);
            return;
        };
        // The item before the boundary is in this frame only if it contains another boundary.
        let before = &frame[..end - 1];
        let previous = self.framing.last_boundary(before, begins_in_line);
        let last = previous.map(|previous| Pieces::One(frame.slice(previous..end)));
        match last {
            Some(last) if self.holds_item(&last) => self.complete = last,
            _ => {
                let mut items = std::mem::take(&mut self.partial);
                items.push(frame.slice(..end), MAX_HELD_BYTES);
                if self.holds_item(&items) {
                    self.complete = items;
                }
            }
        }
        self.partial = Pieces::None;
        self.partial.push(frame.slice(end..), MAX_HELD_BYTES);
    }

    fn push_line(&mut self, frame: &[u8]) {
        let line = match memrchr(b'\n', frame) {
            Some(at) => {
                self.is_in_line = false;
                &frame[at + 1..]
            }
            None => frame,
        };
        self.is_in_line |= line.iter().any(|byte| *byte != b'\r');
    }

    /// The last item without its line feeds; copied if it arrived in several frames. An unfinished
    /// item counts, because some servers do not send a final line feed.
    ///
    /// `None` if there was none yet, or if it was longer than [`MAX_HELD_BYTES`].
    pub fn last_item(&self) -> Option<Bytes> {
        let items = self.last_pieces().joined();
        let item = self.framing.last_item(&items)?;
        Some(items.slice_ref(item))
    }

    fn last_pieces(&self) -> &Pieces {
        match self.holds_item(&self.partial) {
            true => &self.partial,
            false => &self.complete,
        }
    }

    fn holds_item(&self, pieces: &Pieces) -> bool {
        let bytes = pieces.iter().flatten().copied();
        matches!(pieces, Pieces::TooLong) || self.framing.has_item(bytes)
    }

    /// The meaning of the stream's end, if it ended now.
    pub fn end(&self, rule: EndRule) -> StreamEnd {
        match self.last_pieces() {
            Pieces::TooLong if self.is_at_boundary() => StreamEnd::Unknown,
            Pieces::TooLong => StreamEnd::Unfinished,
            _ => match rule.end_after(self.framing, self.last_item().as_deref()) {
                StreamEnd::Unknown if self.ends_inside_a_line() => StreamEnd::Unfinished,
                end => end,
            },
        }
    }

    /// Whether the bytes after the last boundary are an incomplete line, and not a complete line
    /// that only lacks its line feed.
    fn ends_inside_a_line(&self) -> bool {
        self.framing == Framing::Ndjson
            && self.holds_item(&self.partial)
            && serde_json::from_slice::<IgnoredAny>(&self.partial.joined()).is_err()
    }

    /// The number of the next event, in streams whose events have a `sequence_number`.
    pub fn next_sequence_number(&self) -> u64 {
        let item = self.last_item();
        item.map_or(0, |item| next_sequence_number(self.framing, &item))
    }

    /// Whether an item is complete.
    pub(super) fn has_whole_item(&self) -> bool {
        !self.complete.is_none()
    }
}

impl Framing {
    /// Whether a frame that begins at a boundary ends at one, and certainly has an item.
    fn is_whole_items(self, frame: &[u8]) -> bool {
        match (self, frame) {
            (Self::Ndjson, [first, .., b'\n']) => !first.is_ascii_whitespace(),
            (Self::Sse, [first, .., b'\n', b'\n']) => !matches!(first, b':' | b'\r' | b'\n'),
            _ => false,
        }
    }

    /// The index after the last boundary in `bytes`. For events, `is_in_line` means that the first
    /// line has earlier bytes.
    fn last_boundary(self, bytes: &[u8], is_in_line: bool) -> Option<usize> {
        let mut end = memrchr(b'\n', bytes)?;
        if self == Self::Ndjson {
            return Some(end + 1);
        }
        loop {
            let line = &bytes[..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match line.last() {
                None if !is_in_line => return Some(end + 1),
                Some(b'\n') => return Some(end + 1),
                _ => end = memrchr(b'\n', &bytes[..end])?,
            }
        }
    }

    /// Whether there is anything but blank lines and, in event streams, comments.
    fn has_item(self, mut bytes: impl Iterator<Item = u8>) -> bool {
        if self == Self::Ndjson {
            return bytes.any(|byte| !byte.is_ascii_whitespace());
        }
        let mut is_at_line_start = true;
        bytes.any(|byte| match byte {
            b'\r' => false,
            b'\n' => {
                is_at_line_start = true;
                false
            }
            b':' => {
                is_at_line_start = false;
                false
            }
            _ => is_at_line_start,
        })
    }

    /// The last item in a sequence of complete items; its final line feeds may be missing.
    fn last_item(self, items: &[u8]) -> Option<&[u8]> {
        let mut rest = items;
        loop {
            rest = match self {
                Self::Ndjson => rest.trim_ascii_end(),
                Self::Sse => trim_line_ends(rest),
            };
            if rest.is_empty() {
                return None;
            }
            let start = self.last_boundary(rest, false).unwrap_or(0);
            let item = &rest[start..];
            if self.has_item(item.iter().copied()) {
                return Some(item);
            }
            rest = &rest[..start];
        }
    }
}

fn trim_line_ends(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes
        .strip_suffix(b"\n")
        .or_else(|| bytes.strip_suffix(b"\r"))
    {
        bytes = rest;
    }
    bytes
}
