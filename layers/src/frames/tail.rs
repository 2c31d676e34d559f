//! The last item of a stream.

use bytes::Bytes;

use super::Framing;

/// Knows where a stream stands and what its last item was.
///
/// ```
/// use llamatower_layers::frames::{Framing, Tail};
///
/// let mut tail = Tail::new(Framing::Ndjson);
/// tail.push(&"{\"a\":1}\n{\"b\"".into());
/// assert!(!tail.is_at_boundary());
/// tail.push(&":2}\n".into());
/// assert!(tail.is_at_boundary());
/// assert_eq!(tail.last_item(), "{\"b\":2}\n");
/// ```
#[derive(Clone, Debug)]
pub struct Tail {
    framing: Framing,
    /// The frame that came last. It is the whole last item as long as `earlier` is empty and
    /// the stream stands at a boundary, which is how Ollama sends: one item, one chunk.
    last: Bytes,
    /// What came before `last` and may belong to its item, when an item is not one frame.
    earlier: Vec<Bytes>,
}

impl Tail {
    /// The tail of a stream of which nothing was seen.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            last: Bytes::new(),
            earlier: Vec::new(),
        }
    }

    /// How its items are told apart.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Sees the next frame.
    pub fn push(&mut self, frame: &Bytes) {
        if frame.is_empty() {
            return;
        }
        if self.is_at_boundary() {
            self.earlier.clear();
        } else {
            self.keep_open_item();
        }
        self.last = frame.clone();
    }

    /// Moves the last frame to the pieces of an item that goes on, and forgets what belongs to
    /// items before.
    fn keep_open_item(&mut self) {
        let last = std::mem::take(&mut self.last);
        match last_separator(&last, self.framing) {
            Some(end) => {
                self.earlier.clear();
                self.earlier.push(last.slice(end..));
            }
            None => self.earlier.push(last),
        }
    }

    /// Whether the stream stands between two items (or at its beginning).
    pub fn is_at_boundary(&self) -> bool {
        let separator = self.framing.separator();
        if self.last.len() >= separator.len() || self.earlier.is_empty() {
            return self.last.is_empty() || self.last.ends_with(separator);
        }
        self.joined().ends_with(separator)
    }

    /// The last item with its end, or what has come of one that has not ended.
    pub fn last_item(&self) -> Bytes {
        let joined = self.joined();
        let separator = self.framing.separator();
        let inner = joined.strip_suffix(separator).unwrap_or(&joined);
        let start = last_separator(inner, self.framing).unwrap_or(0);
        joined.slice(start..)
    }

    fn joined(&self) -> Bytes {
        if self.earlier.is_empty() {
            return self.last.clone();
        }
        let pieces = self.earlier.iter().chain([&self.last]);
        pieces.flat_map(|piece| piece.iter().copied()).collect()
    }
}

/// Where the item after the last separator begins.
fn last_separator(bytes: &[u8], framing: Framing) -> Option<usize> {
    match framing {
        Framing::Ndjson => memchr::memrchr(b'\n', bytes).map(|place| place + 1),
        Framing::Sse => memchr::memmem::rfind(bytes, b"\n\n").map(|place| place + 2),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a reader of the whole text says of its last item.
    fn oracle(text: &str, framing: Framing) -> (bool, String) {
        let separator = match framing {
            Framing::Ndjson => "\n",
            Framing::Sse => "\n\n",
        };
        let at_boundary = text.is_empty() || text.ends_with(separator);
        let inner = text.strip_suffix(separator).unwrap_or(text);
        let start = inner
            .rfind(separator)
            .map_or(0, |place| place + separator.len());
        (at_boundary, text[start..].to_owned())
    }

    fn pieces(text: &str, mut cuts: Vec<usize>) -> Vec<Bytes> {
        cuts.iter_mut().for_each(|cut| *cut %= text.len() + 1);
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pairs = cuts.windows(2);
        pairs
            .map(|pair| Bytes::copy_from_slice(&text.as_bytes()[pair[0]..pair[1]]))
            .collect()
    }

    fn items(separator: &'static str) -> impl Strategy<Value = String> {
        let item = prop_oneof![
            "[ab]{1,6}",
            "event: e\ndata: [ab]{0,3}".prop_map(|text| text)
        ];
        let items = proptest::collection::vec(item, 0..6);
        (items, any::<bool>()).prop_map(move |(items, closed)| {
            let joined = items.join(separator);
            if closed && !joined.is_empty() {
                joined + separator
            } else {
                joined
            }
        })
    }

    proptest! {
        #[test]
        fn lines_are_seen_however_they_are_split(text in "([ab]{1,5}\n){0,5}[ab]{0,3}", cuts in proptest::collection::vec(any::<usize>(), 0..8)) {
            let mut tail = Tail::new(Framing::Ndjson);
            pieces(&text, cuts).iter().for_each(|piece| tail.push(piece));
            let (at_boundary, last) = oracle(&text, Framing::Ndjson);
            prop_assert_eq!(tail.is_at_boundary(), at_boundary);
            prop_assert_eq!(tail.last_item(), last);
        }

        #[test]
        fn events_are_seen_however_they_are_split(text in items("\n\n"), cuts in proptest::collection::vec(any::<usize>(), 0..8)) {
            let mut tail = Tail::new(Framing::Sse);
            pieces(&text, cuts).iter().for_each(|piece| tail.push(piece));
            let (at_boundary, last) = oracle(&text, Framing::Sse);
            prop_assert_eq!(tail.is_at_boundary(), at_boundary);
            prop_assert_eq!(tail.last_item(), last);
        }
    }
}
