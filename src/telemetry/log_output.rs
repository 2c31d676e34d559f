//! What the log is written to: the standard output, and what is said if it takes no more.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two messages on the standard error.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What became of the lines that could not be written. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct LogHealth(Arc<Health>);

#[derive(Debug, Default)]
struct Health {
    lost: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl LogHealth {
    /// Lines that were lost because writing them failed.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// Why the last line could not be written; `None` if it could.
    pub(super) fn problem(&self) -> Option<String> {
        let problem = self.0.problem.lock();
        problem.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_problem(&self, problem: Option<String>) {
        let place = self.0.problem.lock();
        *place.unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// Writes lines, and counts those that cannot be written. It never fails, because the thread of the
/// log ignores errors.
pub(super) struct LogOutput<W> {
    output: W,
    /// Where a failure is told; `None` if the log goes there too.
    other: Option<Box<dyn Write + Send>>,
    health: LogHealth,
    /// The last line ends in the middle: the next one must not be joined with it.
    is_cut: bool,
    /// The lines lost since the last one that was written.
    lost: u64,
    said_at: Option<Instant>,
}

impl LogOutput<Box<dyn Write + Send>> {
    /// The standard output.
    pub(super) fn stdout() -> (Self, LogHealth) {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let is_same = is_same_file(stdout.as_fd(), stderr.as_fd());
        let other: Option<Box<dyn Write + Send>> = match is_same {
            true => None,
            false => Some(Box::new(stderr)),
        };
        // Not through the buffer of `io::stdout`, which does not tell how much of a line was written.
        let output: Box<dyn Write + Send> = match stdout.as_fd().try_clone_to_owned() {
            Ok(file) => Box::new(File::from(file)),
            Err(_) => Box::new(stdout),
        };
        Self::new(output, other)
    }
}

impl<W: Write> LogOutput<W> {
    fn new(output: W, other: Option<Box<dyn Write + Send>>) -> (Self, LogHealth) {
        let health = LogHealth::default();
        let output = Self {
            output,
            other,
            health: health.clone(),
            is_cut: false,
            lost: 0,
            said_at: None,
        };
        (output, health)
    }

    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_cut {
            self.write_rest(b"\n")?;
            self.is_cut = false;
        }
        self.write_rest(line)
    }

    fn write_rest(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.output.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.is_cut = !rest.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) {
        self.lost += 1;
        self.health.0.lost.fetch_add(1, Relaxed);
        if self.lost > 1 {
            return;
        }
        self.health.set_problem(Some(error.to_string()));
        let is_due = self.said_at.is_none_or(|at| at.elapsed() >= SAY_AGAIN);
        if let (Some(other), true) = (&mut self.other, is_due) {
            self.said_at = Some(Instant::now());
            // Nothing is left to tell it to if this fails.
            let _ = writeln!(
                other,
                "llamatower: the log cannot be written, and its lines are lost: {error}"
            );
        }
    }

    fn succeeded(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            self.health.set_problem(None);
            tracing::warn!(
                lines = lost,
                "the log could not be written for a time; lines are lost"
            );
        }
    }
}

impl<W: Write> Write for LogOutput<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.try_write(line) {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed(&error),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // There is no buffer whose failure would lose anything.
        let _ = self.output.flush();
        Ok(())
    }
}

/// Whether both lead to the same file, pipe or terminal.
fn is_same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let place = |fd: BorrowedFd<'_>| {
        let file = File::from(fd.try_clone_to_owned().ok()?);
        let metadata = file.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    place(one).is_some_and(|place_of_one| Some(place_of_one) == place(other))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A disk with room for so many bytes.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn add_room(&self, bytes: usize) {
            self.0.lock().unwrap().1 += bytes;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (contents, room) = &mut *self.0.lock().unwrap();
            let bytes = &bytes[..bytes.len().min(*room)];
            if bytes.is_empty() {
                return Err(ErrorKind::StorageFull.into());
            }
            *room -= bytes.len();
            contents.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lost_lines_are_counted_and_told_once_and_a_cut_one_is_ended() {
        let (disk, other) = (Disk::default(), Disk::default());
        other.add_room(10_000);
        let (mut log, health) = LogOutput::new(disk.clone(), Some(Box::new(other.clone())));
        disk.add_room(13);
        log.write_all(b"{\"a\":1}\n").unwrap();
        assert_eq!((health.lost(), health.problem()), (0, None));
        log.write_all(b"{\"b\":2}\n").unwrap();
        log.write_all(b"{\"c\":3}\n").unwrap();
        assert_eq!(health.lost(), 2);
        let problem = health.problem().unwrap();
        assert!(other.text().contains(&problem), "{}", other.text());
        assert_eq!(other.text().lines().count(), 1, "{}", other.text());
        // Room for no more than the end of the cut line, and then for others.
        disk.add_room(1);
        log.write_all(b"{\"d\":4}\n").unwrap();
        disk.add_room(1000);
        log.write_all(b"{\"e\":5}\n").unwrap();
        assert_eq!(disk.text(), "{\"a\":1}\n{\"b\":\n{\"e\":5}\n");
        assert_eq!((health.lost(), health.problem()), (3, None));
    }

    #[test]
    fn the_same_file_is_recognised() {
        let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let again = one.try_clone().unwrap();
        assert!(is_same_file(one.as_fd(), again.as_fd()));
        assert!(!is_same_file(one.as_fd(), other.as_fd()));
    }
}
