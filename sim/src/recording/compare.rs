//! The differences between two answers.

use std::fmt;

use super::answer::{Answer, Framing};
use super::mask::{mask_chunk, mask_text};

/// One difference between two answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The compared part: `status`, `framing`, `end`, `body`, or the lower-case name of a header
    /// field.
    pub what: String,
    /// The recorded value, without volatile parts.
    pub recorded: String,
    /// The current value, without volatile parts.
    pub seen: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            recorded,
            seen,
        } = self;
        write!(
            f,
            "{what}:\n  recorded {}\n  seen     {}",
            or_none(recorded),
            or_none(seen)
        )
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "nothing" } else { text }
}

/// Lists the differences between two answers, except for volatile values.
///
/// The chunks of a stream are compared one by one, but equal adjacent chunks count as one, because
/// the number of tokens is volatile. Other bodies are compared as a whole.
pub fn compare(recorded: &Answer, seen: &Answer) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut note = |what: &str, recorded: String, seen: String| {
        if recorded != seen {
            differences.push(Difference {
                what: what.to_owned(),
                recorded,
                seen,
            });
        }
    };
    note(
        "status",
        recorded.status.to_string(),
        seen.status.to_string(),
    );
    let (framing, end) = (&recorded.framing, &recorded.end);
    note(
        "framing",
        format!("{framing:?}"),
        format!("{:?}", seen.framing),
    );
    note("end", format!("{end:?}"), format!("{:?}", seen.end));
    let mut names: Vec<_> = [recorded, seen]
        .iter()
        .flat_map(|answer| &answer.headers)
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        note(&name, field(recorded, &name), field(seen, &name));
    }
    note("body", body(recorded), body(seen));
    differences
}

/// All values of a header field.
fn field(answer: &Answer, name: &str) -> String {
    let values: Vec<_> = answer
        .headers
        .iter()
        .filter(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| match name {
            "date" | "content-length" => "is there".to_owned(),
            _ => mask_text(value),
        })
        .collect();
    values.join(" | ")
}

fn body(answer: &Answer) -> String {
    let content_type = answer.header("content-type").unwrap_or_default();
    let is_stream = content_type.contains("ndjson") || content_type.contains("event-stream");
    if answer.framing != Framing::Chunked || !is_stream {
        return mask_chunk(&answer.body());
    }
    let mut kinds: Vec<_> = answer.chunks.iter().map(|data| mask_chunk(data)).collect();
    kinds.dedup();
    kinds.join("\n  --\n  ")
}
