//! Shows the progress of a pull: bars on a terminal, else lines.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::arguments::Output;

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
pub(super) struct Progress {
    model: String,
    shown: Shown,
}

enum Shown {
    /// The lines as they arrive.
    Json,
    /// A line for each new step of a server.
    Plain { last: BTreeMap<String, String> },
    /// The model, and below it a bar for each server.
    Bars {
        all: MultiProgress,
        of: BTreeMap<String, ProgressBar>,
    },
}

impl Progress {
    pub(super) fn new(model: &str, output: Output) -> Self {
        let shown = match output {
            Output::Json => Shown::Json,
            Output::Text if io::stderr().is_terminal() => Shown::Bars {
                all: MultiProgress::new(),
                of: BTreeMap::new(),
            },
            Output::Text => Shown::Plain {
                last: BTreeMap::new(),
            },
        };
        Self {
            model: model.to_owned(),
            shown,
        }
    }

    /// Shows a step of a server. `line` is how it was sent.
    pub(super) fn show(&mut self, server: &str, step: &Step, line: &[u8]) -> io::Result<()> {
        let text = match &step.reason {
            Some(reason) => format!("{}: {reason}", step.status),
            None => step.status.clone(),
        };
        match &mut self.shown {
            Shown::Json => {
                let mut out = io::stdout().lock();
                out.write_all(line)?;
                out.write_all(b"\n")?;
                out.flush()?;
            }
            Shown::Plain { last } => {
                if !text.is_empty() && last.get(server) != Some(&text) {
                    writeln!(io::stdout(), "{}: {server}: {text}", self.model)?;
                    last.insert(server.to_owned(), text);
                }
            }
            Shown::Bars { all, of } => {
                if of.is_empty() {
                    all.println(format!("{}:", self.model))?;
                }
                let bar = of.entry(server.to_owned()).or_insert_with(|| {
                    let bar = ProgressBar::no_length().with_prefix(server.to_owned());
                    all.add(bar.with_style(style(TEXT)))
                });
                let is_over = matches!(&*step.status, "success" | "failed");
                if let Some(total) = step.total.filter(|_| !is_over) {
                    if bar.length().is_none() {
                        bar.set_style(style(of_width(columns(), server)));
                    }
                    bar.set_length(total);
                    bar.set_position(step.completed.unwrap_or(0));
                }
                match is_over {
                    true => {
                        // What is left or how fast it was says nothing any more.
                        bar.set_style(style(TEXT));
                        bar.abandon_with_message(text);
                    }
                    false => bar.set_message(text),
                }
            }
        }
        Ok(())
    }
}

/// The template of a server without a bar. A text that is too long for the terminal is cut off.
const TEXT: &str = "  {prefix}: {wide_msg}";

/// The templates with a bar, the widest first, each with the columns that it needs besides the name
/// of the server; at least 12 are left for the text.
const BARS: [(usize, &str); 3] = [
    (
        91,
        "  {prefix}: {bar:25} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left: {wide_msg}",
    ),
    (
        59,
        "  {prefix}: {bar:15} {percent}% of {binary_total_bytes}, {eta} left: {wide_msg}",
    ),
    (24, "  {prefix}: {percent:>3}%: {wide_msg}"),
];

/// The template for a terminal with this number of columns.
fn of_width(columns: usize, server: &str) -> &'static str {
    let left = columns.saturating_sub(server.chars().count());
    let mut bars = BARS.into_iter();
    let fits = bars.find(|(needed, _)| *needed <= left);
    fits.map_or(TEXT, |(_, template)| template)
}

fn columns() -> usize {
    let (_, columns) = Term::stderr().size();
    columns.into()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal of this width that keeps the lines of the last drawing.
    #[derive(Clone, Debug)]
    struct Screen {
        columns: u16,
        lines: Arc<Mutex<Vec<String>>>,
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            self.columns
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.lines.lock().unwrap().push(text.to_owned());
            Ok(())
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.write_line(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The last line of a bar at the end of these steps.
    fn line(columns: u16, total: u64) -> String {
        let screen = Screen {
            columns,
            lines: Arc::default(),
        };
        let server = "gpu-1.example:11434";
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let bar = ProgressBar::with_draw_target(Some(total), target);
        bar.set_style(style(of_width(columns.into(), server)));
        bar.set_prefix(server);
        bar.set_message("pulling 747074707470");
        bar.set_position(total / 3);
        bar.tick();
        let lines = screen.lines.lock().unwrap();
        let mut lines = lines.iter().rev();
        let line = lines.find(|line| !line.trim().is_empty());
        line.unwrap().trim_end().to_owned()
    }

    #[test]
    fn a_bar_fits_into_the_terminal() {
        for columns in [40, 60, 80, 100, 132] {
            for total in [1, 1_321_082_688, 400_000_000_000] {
                let line = line(columns, total);
                assert!(line.chars().count() <= columns.into(), "{columns}: {line}");
                assert!(line.contains("gpu-1.example:11434: "), "{columns}: {line}");
            }
        }
        assert!(line(60, 3).contains("33%: pulling"), "{}", line(60, 3));
        assert!(line(80, 3).contains("left: pulling"), "{}", line(80, 3));
    }

    #[test]
    fn every_template_is_valid() {
        for template in BARS.into_iter().map(|(_, template)| template).chain([TEXT]) {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
