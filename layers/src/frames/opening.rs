//! The first event of a stream.

use bytes::Bytes;
use memchr::memmem;

use super::Tail;
use super::end::data_of_event;
use super::pieces::Pieces;

/// Limit of the stored beginning, 1 MiB: the first event of a Responses stream repeats the
/// instructions and the tools of its request.
const MAX_OPENING_BYTES: usize = 1 << 20;

/// Stores the frames of an event stream up to the end of its first event.
///
/// ```
/// use bytes::Bytes;
/// use llamatower_layers::frames::{Framing, Opening, Tail};
///
/// let (mut tail, mut opening) = (Tail::new(Framing::Sse), Opening::default());
/// for frame in ["event: a\ndata: {\"id\"", ":1}\n\n", "data: {\"id\":2}\n\n"] {
///     let frame = Bytes::from(frame);
///     tail.push(&frame);
///     opening.push(&frame, &tail);
/// }
/// assert_eq!(opening.data(), "{\"id\":1}");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Opening {
    frames: Pieces,
    is_whole: bool,
}

impl Opening {
    /// Adds a frame that `tail` has already seen.
    pub fn push(&mut self, frame: &Bytes, tail: &Tail) {
        if !self.is_whole {
            self.frames.push(frame.clone(), MAX_OPENING_BYTES);
            self.is_whole = tail.has_whole_item();
        }
    }

    /// The `data` of the first event; empty if there was none yet, or if it was too long.
    pub fn data(&self) -> Bytes {
        let frames = self.frames.joined();
        let mut rest = &frames[..];
        loop {
            let ends = [&b"\n\n"[..], b"\n\r\n"];
            let ends = ends.into_iter().filter_map(|end| memmem::find(rest, end));
            let end = ends.min().map_or(rest.len(), |at| at + 1);
            let (event, behind) = rest.split_at(end);
            let data = data_of_event(event);
            // There may be comments before it.
            if !data.is_empty() || behind.is_empty() {
                return frames.slice_ref(data);
            }
            rest = behind;
        }
    }
}
