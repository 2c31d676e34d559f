//! Reads public traces of LLM traffic.
//!
//! Two formats are known by their first line:
//!
//! - the CSV files of the Azure Public Dataset (LLM inference 2023), with the columns `TIMESTAMP`,
//!   `ContextTokens` and `GeneratedTokens`;
//! - the JSON lines of Mooncake (FAST 2025), with `timestamp` in milliseconds, `input_length`,
//!   `output_length` and `hash_ids`, one for each block of 512 prompt tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::DateTime;
use serde::Deserialize;

use super::server::BLOCK_TOKENS;

/// One request of a trace.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Seconds since the first request.
    pub(super) at: f64,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    /// The ids of the leading blocks of the prompt; equal ids are equal text. Empty if the trace
    /// does not tell.
    pub(super) blocks: Arc<[u64]>,
}

/// A trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// The file cannot be opened.
    #[error("cannot read the trace {}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A line is not in the format of the file.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        reason: String,
    },
    /// There is no request in the file.
    #[error("the trace {} has no requests", path.display())]
    Empty { path: PathBuf },
}

/// The requests of a trace, in the order of their arrival.
///
/// # Errors
/// The file cannot be read, or a line of it is not valid; nothing of the file is used then.
pub(super) fn read(path: &Path) -> Result<Vec<Row>, TraceError> {
    let text = std::fs::read_to_string(path).map_err(|source| TraceError::File {
        path: path.into(),
        source,
    })?;
    let is_json = text.trim_start().starts_with('{');
    let mut lines = text.lines().enumerate();
    if !is_json {
        check_header(path, lines.next().map_or("", |(_, line)| line))?;
    }
    let mut rows = Vec::new();
    for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let row = match is_json {
            true => mooncake(line),
            false => azure(line),
        };
        rows.push(row.map_err(|reason| TraceError::Line {
            path: path.into(),
            line: at + 1,
            reason,
        })?);
    }
    let first = rows.iter().map(|row| row.at).min_by(f64::total_cmp);
    let Some(first) = first else {
        return Err(TraceError::Empty { path: path.into() });
    };
    for row in &mut rows {
        row.at -= first;
    }
    rows.sort_by(|a, b| a.at.total_cmp(&b.at));
    Ok(rows)
}

/// The name of a trace's file.
pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn check_header(path: &Path, header: &str) -> Result<(), TraceError> {
    if header.trim() == "TIMESTAMP,ContextTokens,GeneratedTokens" {
        return Ok(());
    }
    Err(TraceError::Line {
        path: path.into(),
        line: 1,
        reason: format!(
            "expected the header TIMESTAMP,ContextTokens,GeneratedTokens or a JSON object with \
             timestamp, input_length and output_length, found {:?}",
            header.chars().take(60).collect::<String>()
        ),
    })
}

fn azure(line: &str) -> Result<Row, String> {
    let mut fields = line.split(',').map(str::trim);
    let mut field = |name| fields.next().ok_or_else(|| format!("{name} is missing"));
    let timestamp = field("TIMESTAMP")?;
    let prompt = field("ContextTokens")?;
    let output = field("GeneratedTokens")?;
    if let Some(more) = fields.next() {
        return Err(format!("expected three fields, found also {more:?}"));
    }
    let tokens = |name, text: &str| {
        text.parse()
            .map_err(|_| format!("{name} is {text:?}, expected a number of tokens"))
    };
    let at: DateTime = timestamp
        .parse()
        .map_err(|error| format!("TIMESTAMP is {timestamp:?}: {error}"))?;
    let since = at.duration_since(DateTime::constant(2000, 1, 1, 0, 0, 0, 0));
    Ok(Row {
        at: since.as_secs_f64(),
        prompt_tokens: tokens("ContextTokens", prompt)?,
        output_tokens: tokens("GeneratedTokens", output)?,
        blocks: Arc::default(),
    })
}

fn mooncake(line: &str) -> Result<Row, String> {
    #[derive(Deserialize)]
    struct Line {
        timestamp: u64,
        input_length: u32,
        output_length: u32,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let blocks = (line.input_length / BLOCK_TOKENS) as usize;
    Ok(Row {
        at: line.timestamp as f64 / 1000.0,
        prompt_tokens: line.input_length,
        output_tokens: line.output_length,
        // The last block is not full and has no use for others.
        blocks: line.hash_ids.into_iter().take(blocks).collect(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn azure_files_are_read() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
                    2023-11-16 18:17:03.9799600,4808,10\n\
                    2023-11-16 18:17:04.2299600,110,27\n";
        let rows = read(file(text).path()).unwrap();
        assert_eq!(rows.len(), 2);
        assert!((rows[1].at - 0.25).abs() < 1e-6);
        assert_eq!((rows[0].prompt_tokens, rows[1].output_tokens), (4808, 27));
    }

    #[test]
    fn mooncake_files_are_read_without_the_last_block() {
        let text = r#"{"timestamp": 500, "input_length": 1100, "output_length": 5, "hash_ids": [0, 7, 9]}
{"timestamp": 2500, "input_length": 100, "output_length": 6, "hash_ids": [8]}
"#;
        let rows = read(file(text).path()).unwrap();
        assert_eq!(*rows[0].blocks, [0, 7]);
        assert_eq!((rows[1].at, rows[1].blocks.len()), (2.0, 0));
    }

    #[test]
    fn an_invalid_line_is_named_with_its_number_and_reason() {
        let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        let cases = [
            ("a,b\n".to_owned(), ":1: expected the header"),
            (format!("{header}2023-11-16 18:17:03.97,10,1\n2023-11-16 18:17:04,x,1\n"), ":3: ContextTokens is \"x\""),
            (format!("{header}2023-11-16 18:17:03.97,10\n"), ":2: GeneratedTokens is missing"),
            (format!("{header}yesterday,10,1\n"), ":2: TIMESTAMP is \"yesterday\""),
            ("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n{\"timestamp\": 1\n".to_owned(), ":2: "),
            (header.to_owned(), "has no requests"),
        ];
        for (text, expected) in cases {
            let error = read(file(&text).path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
