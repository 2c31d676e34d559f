//! Shows the progress of a pull: bars on a terminal, else lines.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Deserialize;

/// A line of a pull's progress.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Step {
    pub(super) status: String,
    pub(super) server: Option<String>,
    /// The size of the layer in bytes, and how much of it is there.
    total: Option<u64>,
    completed: Option<u64>,
    /// Why a server has failed.
    reason: Option<String>,
    /// Why the pull has failed.
    pub(super) error: Option<String>,
}

/// The progress of a pull on one or several servers.
pub(super) enum Progress {
    /// The lines as they arrive.
    Json,
    /// A line for each new step of a server.
    Plain { last: BTreeMap<String, String> },
    /// A bar for each server.
    Bars {
        all: MultiProgress,
        of: BTreeMap<String, ProgressBar>,
    },
}

impl Progress {
    pub(super) fn new(as_json: bool) -> Self {
        match as_json {
            true => Self::Json,
            false if io::stderr().is_terminal() => Self::Bars {
                all: MultiProgress::new(),
                of: BTreeMap::new(),
            },
            false => Self::Plain {
                last: BTreeMap::new(),
            },
        }
    }

    /// Shows a step of a server. `line` is how it was sent.
    pub(super) fn show(&mut self, server: &str, step: &Step, line: &[u8]) -> io::Result<()> {
        let text = match &step.reason {
            Some(reason) => format!("{}: {reason}", step.status),
            None => step.status.clone(),
        };
        match self {
            Self::Json => {
                let mut out = io::stdout().lock();
                out.write_all(line)?;
                out.write_all(b"\n")?;
                out.flush()?;
            }
            Self::Plain { last } => {
                if !text.is_empty() && last.get(server) != Some(&text) {
                    writeln!(io::stdout(), "{server}: {text}")?;
                    last.insert(server.to_owned(), text);
                }
            }
            Self::Bars { all, of } => {
                let bar = of
                    .entry(server.to_owned())
                    .or_insert_with(|| all.add(bar(server)));
                if let Some(total) = step.total {
                    bar.set_length(total);
                    bar.set_position(step.completed.unwrap_or(0));
                }
                match step.status.as_str() {
                    "success" | "failed" => bar.abandon_with_message(text),
                    _ => bar.set_message(text),
                }
            }
        }
        Ok(())
    }
}

fn bar(server: &str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_prefix(server.to_owned());
    let template = "{prefix}: {bar:30} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left: {msg}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
