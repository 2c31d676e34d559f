//! Reads traces of LLM traffic in two public formats.

use std::{fs, path::Path, str::FromStr};

use jiff::civil::DateTime;
use serde::Deserialize;

use crate::Error;

/// A request of a trace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Seconds since the first request.
    pub(crate) arrival: f64,
    pub(crate) prompt_tokens: u64,
    pub(crate) reply_tokens: u64,
    /// The identities of the blocks of [`BLOCK_TOKENS`] tokens of the prompt; empty if unknown.
    pub(crate) blocks: Vec<u64>,
}

/// The length of a block of a Mooncake trace.
pub(crate) const BLOCK_TOKENS: u64 = 512;

/// The requests of a trace, in order of arrival.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) entries: Vec<Entry>,
}

impl Trace {
    /// Reads a file: `.jsonl` in the format of Mooncake, everything else in that of the Azure
    /// Public Dataset (`TIMESTAMP,ContextTokens,GeneratedTokens`).
    ///
    /// # Errors
    /// The file cannot be read, or a line is broken: its number, and what was expected.
    pub(crate) fn read(file: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(file).map_err(|why| format!("{}: {why}", file.display()))?;
        let is_json = file.extension().is_some_and(|ext| ext == "jsonl");
        let lines = text.lines().enumerate().skip(usize::from(!is_json));
        let mut entries = lines
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(at, line)| {
                let entry = if is_json { mooncake(line) } else { azure(line) };
                entry.map_err(|why| format!("{}, line {}: {why}", file.display(), at + 1).into())
            })
            .collect::<Result<Vec<_>, Error>>()?;
        entries.sort_by(|a, b| a.arrival.total_cmp(&b.arrival));
        let Some(begin) = entries.first().map(|first| first.arrival) else {
            return Err(format!("{}: no requests", file.display()).into());
        };
        for entry in &mut entries {
            entry.arrival -= begin;
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            name: name.into_owned(),
            entries,
        })
    }

    /// Whether it says which prompts have the same beginning.
    pub(crate) fn has_blocks(&self) -> bool {
        self.entries.iter().any(|entry| !entry.blocks.is_empty())
    }
}

fn azure(line: &str) -> Result<Entry, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [time, prompt, reply] = fields[..] else {
        return Err("expected TIMESTAMP,ContextTokens,GeneratedTokens".to_owned());
    };
    let time = DateTime::from_str(time).map_err(|why| why.to_string())?;
    let since = time.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    let number = |text: &str| {
        let number = text.parse::<u64>();
        number.map_err(|_| format!("expected a number of tokens, not {text:?}"))
    };
    Ok(Entry {
        arrival: since.as_secs_f64(),
        prompt_tokens: number(prompt)?.max(1),
        reply_tokens: number(reply)?.max(1),
        blocks: Vec::new(),
    })
}

fn mooncake(line: &str) -> Result<Entry, String> {
    #[derive(Deserialize)]
    struct Line {
        /// Milliseconds.
        timestamp: f64,
        input_length: u64,
        output_length: u64,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let line: Line = serde_json::from_str(line).map_err(|why| why.to_string())?;
    Ok(Entry {
        arrival: line.timestamp / 1e3,
        prompt_tokens: line.input_length.max(1),
        reply_tokens: line.output_length.max(1),
        blocks: line.hash_ids,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn tiny() -> [Trace; 2] {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    ["tiny.csv", "tiny.jsonl"].map(|name| Trace::read(&dir.join(name)).unwrap())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn both_formats_are_read() {
        let [azure, mooncake] = tiny();
        assert_eq!(azure.entries[1].arrival, 1.25);
        assert_eq!(azure.entries[1].prompt_tokens, 1020);
        assert_eq!(azure.entries[1].reply_tokens, 129);
        assert!(!azure.has_blocks());
        assert_eq!(mooncake.entries[1].arrival, 3.0);
        assert_eq!(mooncake.entries[1].blocks, [0, 1, 3]);
    }

    #[test]
    fn a_broken_line_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "TIMESTAMP,A,B\n2023-11-16 18:15:46.68,374,many\n",
        )
        .unwrap();
        let error = Trace::read(file.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("line 2: expected a number of tokens, not \"many\""),
            "{error}"
        );
    }
}
