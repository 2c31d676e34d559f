//! The processes of proxies, and the end of the comparison itself.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

use crate::Error;

/// A program with all processes that it starts. Dropping it ends them.
#[derive(Debug)]
pub struct ProcessGroup {
    leader: Child,
}

impl ProcessGroup {
    /// Starts a program in its own process group, without input.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let leader = command.process_group(0).stdin(Stdio::null()).spawn()?;
        Ok(Self { leader })
    }

    /// The number of the group.
    pub fn id(&self) -> u32 {
        self.leader.id()
    }

    /// Whether the program has ended.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.leader.try_wait()?.is_some())
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // As long as the leader was not waited for, its id cannot belong to another group.
        let is_running = matches!(self.leader.try_wait(), Ok(None));
        if is_running && let Some(group) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.leader.wait().ok();
    }
}

/// A free loopback address. Another process may take it before it is used.
///
/// # Errors
/// The system has no free port.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// The last lines of a file; empty if it cannot be read.
pub fn last_lines(file: &Path, count: usize) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Runs a comparison until it is complete or this process is asked to end. The processes of a [`ProcessGroup`]
/// that `comparison` holds end with it.
///
/// # Errors
/// The comparison failed, or signals cannot be received.
pub async fn until_terminated(
    comparison: impl Future<Output = Result<(), Error>>,
) -> Result<ExitCode, Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = comparison => done.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn what_a_program_has_started_ends_with_it() {
        let (mut output, its_end) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 600 & echo started; wait"])
            .stdout(its_end);
        let mut group = ProcessGroup::spawn(&mut command).unwrap();
        drop(command);
        let mut started = [0; 8];
        output.read_exact(&mut started).unwrap();
        assert!(!group.has_ended().unwrap());
        drop(group);
        // Each process of the group holds the other end of the pipe.
        let mut rest = String::new();
        assert_eq!(output.read_to_string(&mut rest).unwrap(), 0);
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn the_last_lines_are_in_their_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "one\ntwo\nthree\n").unwrap();
        assert_eq!(last_lines(file.path(), 2), "two\nthree");
        assert_eq!(last_lines(file.path(), 9), "one\ntwo\nthree");
        assert_eq!(last_lines(Path::new("/no/such/file"), 2), "");
    }
}
