//! Counts the instructions of the phases of a run of this program.

use std::env::{current_exe, temp_dir};
use std::fs;
use std::io::{Error, Result};
use std::path::Path;
use std::process::{Command, Stdio, id};

/// The function of libc at which valgrind begins and ends a phase. Its name is known in a stripped
/// program too, and nothing else calls it.
const MARK: &str = "sched_yield";

/// Whether valgrind can be run.
pub fn is_installed() -> bool {
    let version = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

/// Runs one phase, for [`instructions`].
pub fn phase(run: impl FnOnce()) {
    // Calls MARK.
    std::thread::yield_now();
    run();
    std::thread::yield_now();
}

/// The instructions in user space of each [`phase`] of this program, run without arguments.
///
/// # Errors
/// valgrind or the program failed.
pub fn instructions() -> Result<Vec<f64>> {
    let directory = temp_dir().join(format!("llamatower-beside-{}", id()));
    fs::create_dir_all(&directory)?;
    let counts = counted(&directory.join("counts"));
    fs::remove_dir_all(&directory)?;
    counts
}

fn counted(file: &Path) -> Result<Vec<f64>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-line=no"])
        .arg(format!("--dump-before={MARK}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(current_exe()?)
        .output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Error::other(format!("the counted run failed: {text}")));
    }
    let mut counts = Vec::new();
    // Each file has what was done since the one before it; every second has a phase.
    for number in (2..).step_by(2) {
        let part = file.with_extension(number.to_string());
        if !part.exists() {
            break;
        }
        let text = fs::read_to_string(part)?;
        let count = text.lines().find_map(total_in);
        counts.push(count.ok_or_else(|| Error::other("a count without a total"))?);
    }
    Ok(counts)
}

/// The count in the line `summary: 1234567` of a profile.
fn total_in(line: &str) -> Option<f64> {
    let count = line
        .strip_prefix("summary:")
        .or(line.strip_prefix("totals:"));
    count?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_summary_has_the_count() {
        assert_eq!(total_in("summary: 1234567"), Some(1_234_567.0));
        assert_eq!(total_in("totals: 1234567"), Some(1_234_567.0));
        assert_eq!(total_in("events: Ir"), None);
        assert_eq!(total_in("12 345"), None);
    }
}
