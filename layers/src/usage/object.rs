//! The counts of a response that is one JSON object.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::Usage;

/// The longest name of a member with counts.
const LONGEST_NAME: usize = b"prompt_eval_duration".len();
/// The kept text is no longer than this. The counts have less than 300 bytes in every dialect.
const MAX_KEPT: usize = 2048;
/// An object of one piece that is no longer than this is read once, at its end: most responses are so short,
/// and to look for their members costs four times as much.
const SHORT: usize = 1024;

/// A model chooses the names in the arguments of a tool.
static TOOL_CALLS: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"tool_calls\""));

/// Keeps the members with counts, wherever they are in the object: Ollama's answer to
/// `/api/generate` has the probabilities of all tokens after them. Members of inner objects do not
/// count, because a model chooses the names of the arguments of a tool.
#[derive(Debug, Default)]
pub(super) struct CountMembers {
    /// The first piece, if it is short and no other one has come.
    first: Bytes,
    place: Place,
    depth: usize,
    name: Name,
    is_kept: bool,
    /// The members with counts, as text.
    kept: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    BetweenStrings,
    InString,
    AfterBackslash,
    /// After a string that is a name if a colon follows.
    AfterName,
}

/// The beginning of a string at the top level.
#[derive(Debug, Default)]
struct Name {
    bytes: [u8; LONGEST_NAME],
    length: usize,
}

impl CountMembers {
    /// Takes the next piece of the response.
    pub(super) fn push(&mut self, piece: &Bytes) {
        let is_first = self.first.is_empty() && self.depth == 0 && self.kept.is_empty();
        if is_first && piece.len() <= SHORT && TOOL_CALLS.find(piece).is_none() {
            self.first = piece.clone();
            return;
        }
        let first = std::mem::take(&mut self.first);
        self.scan(&first);
        self.scan(piece);
    }

    fn scan(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = match self.place {
                Place::BetweenStrings => self.skip_to_structure(rest),
                Place::InString => self.read_string(rest),
                Place::AfterBackslash => {
                    self.place = Place::InString;
                    self.pass(rest, 1)
                }
                Place::AfterName => self.read_colon(rest),
            };
        }
    }

    /// Reads the counts.
    pub(super) fn usage(&self) -> Option<Usage> {
        let counts = match self.first.is_empty() {
            true => &self.kept[..],
            false => &self.first[..],
        };
        Usage::find_last(counts)
    }

    fn skip_to_structure<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(at) = memchr::memchr3(b'"', b'{', b'}', bytes) else {
            return self.pass(bytes, bytes.len());
        };
        let bytes = self.pass(bytes, at);
        match bytes[0] {
            b'{' => self.depth += 1,
            b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {
                self.place = Place::InString;
                self.name.length = 0;
                // The next member begins.
                self.is_kept &= self.depth > 1;
            }
        }
        self.is_kept &= self.depth > 0;
        self.pass(bytes, 1)
    }

    fn read_string<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr2(b'"', b'\\', bytes);
        let text = &bytes[..end.unwrap_or(bytes.len())];
        if self.depth == 1 {
            self.name.push(text);
        }
        let Some(end) = end else {
            return self.pass(bytes, bytes.len());
        };
        self.place = match bytes[end] {
            b'\\' => {
                // No name with counts has one.
                self.name.length = LONGEST_NAME + 1;
                Place::AfterBackslash
            }
            _ if self.depth == 1 && self.name.is_of_counts() => Place::AfterName,
            _ => Place::BetweenStrings,
        };
        self.pass(bytes, end + 1)
    }

    fn read_colon<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let bytes = bytes.trim_ascii_start();
        if let Some(first) = bytes.first() {
            self.place = Place::BetweenStrings;
            if *first == b':' {
                self.is_kept = true;
                for part in [b"\"", self.name.text(), b"\""] {
                    keep(&mut self.kept, part);
                }
            }
        }
        bytes
    }

    /// Passes so many bytes, and keeps them if they belong to a member with counts.
    fn pass<'a>(&mut self, bytes: &'a [u8], length: usize) -> &'a [u8] {
        let (passed, rest) = bytes.split_at(length);
        if self.is_kept {
            keep(&mut self.kept, passed);
        }
        rest
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let space = MAX_KEPT - kept.len();
    kept.extend_from_slice(&bytes[..bytes.len().min(space)]);
}

impl Name {
    fn push(&mut self, text: &[u8]) {
        let end = self.length.saturating_add(text.len());
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(text);
        }
        self.length = end;
    }

    /// The name, unless it is too long.
    fn text(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn is_of_counts(&self) -> bool {
        matches!(
            self.text(),
            b"usage"
                | b"prompt_eval_count"
                | b"eval_count"
                | b"load_duration"
                | b"prompt_eval_duration"
                | b"eval_duration"
                | b"total_duration"
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// The answer of a real Ollama 0.17.4 to a request with `"stream":false,"logprobs":true`, of 6 tokens.
    const GENERATE: &str = include_str!("generate_with_logprobs.json");

    fn counts(pieces: &[&[u8]]) -> Option<(u64, u64)> {
        let mut members = CountMembers::default();
        for piece in pieces {
            members.push(&Bytes::copy_from_slice(piece));
        }
        assert!(members.kept.len() <= MAX_KEPT);
        let usage = members.usage()?;
        Some((usage.prompt_tokens, usage.output_tokens))
    }

    #[test]
    fn only_members_of_the_object_itself_are_counts() {
        for (text, expected) in [
            (
                r#"{"eval_count":6,"tool_calls":[{"function":{"arguments":{"eval_count":9}}}]}"#,
                Some((0, 6)),
            ),
            (
                r#"{"response":"eval_count","context":[9],"prompt_eval_count":3}"#,
                Some((3, 0)),
            ),
            (
                r#"{"response":"\\","eval_count" : 6 , "x":{"eval_count":7}}"#,
                Some((0, 6)),
            ),
            (r#"{"response":"\",\"eval_count\":9,\""}"#, None),
            (r#"{"\u0065val_count":9}"#, None),
            (
                r#"{"usage":{"prompt_tokens":3,"x":{"y":"}"},"completion_tokens":2},"z":"usage"}"#,
                Some((3, 2)),
            ),
        ] {
            let (begin, end) = text.as_bytes().split_at(1);
            assert_eq!(counts(&[begin, end]), expected, "{text}");
        }
    }

    #[test]
    fn a_short_object_of_one_piece_has_the_same_counts() {
        for (text, expected) in [
            (
                r#"{"response":"a","prompt_eval_count":3,"eval_count":6}"#,
                (3, 6),
            ),
            (
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":2},"z":null}"#,
                (3, 2),
            ),
            (
                r#"{"eval_count":6,"tool_calls":[{"function":{"arguments":{"eval_count":9}}}]}"#,
                (0, 6),
            ),
        ] {
            assert_eq!(counts(&[text.as_bytes()]), Some(expected), "{text}");
        }
    }

    #[test]
    fn an_endless_member_is_not_kept() {
        let text = format!("{{\"usage\":[{}", "9,".repeat(MAX_KEPT));
        assert_eq!(counts(&[text.as_bytes()]), None);
    }

    proptest! {
        #[test]
        fn counts_before_other_members_are_found_with_any_split_into_frames(
            cuts in proptest::collection::vec(0..GENERATE.len(), 0..40)
        ) {
            let mut cuts = cuts;
            cuts.extend([0, GENERATE.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &GENERATE.as_bytes()[pair[0]..pair[1]]);
            prop_assert_eq!(counts(&pieces.collect::<Vec<_>>()), Some((39, 6)));
        }
    }
}
