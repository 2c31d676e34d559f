//! Signals other than those that end the process, which [`Shutdown`](crate::edge::Shutdown)
//! handles.

use std::io::{self, IsTerminal, stdin};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that would end the process by default, and that the gateway ignores.
const IGNORED: [fn() -> SignalKind; 4] = [
    SignalKind::user_defined1,
    SignalKind::user_defined2,
    SignalKind::alarm,
    // SIGXFSZ, on Linux and macOS: a file is larger than allowed, which the write itself reports.
    || SignalKind::from_raw(25),
];

/// Receives SIGHUP, which has two meanings.
#[derive(Debug)]
pub struct Hangups {
    signal: Signal,
    started_in_terminal: bool,
}

/// The meaning of a SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// An operator requests a reload of the settings.
    Reload,
    /// The terminal of the process is gone.
    TerminalGone,
}

impl Hangups {
    /// Handles SIGHUP from now on, and ignores SIGUSR1, SIGUSR2, SIGALRM and SIGXFSZ. Rust's runtime ignores
    /// SIGPIPE.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        for kind in IGNORED {
            // tokio keeps its handler installed after the receiver is dropped.
            drop(signal(kind())?);
        }
        Ok(Self {
            signal: signal(SignalKind::hangup())?,
            started_in_terminal: stdin().is_terminal(),
        })
    }

    /// Waits for the next SIGHUP; `None` if there can be no more.
    pub async fn next(&mut self) -> Option<Hangup> {
        self.signal.recv().await?;
        // After a hang-up, standard input is not a terminal any more.
        Some(match self.started_in_terminal && !stdin().is_terminal() {
            true => Hangup::TerminalGone,
            false => Hangup::Reload,
        })
    }
}
