//! Signals besides those that end the process, which are [`Shutdown`](crate::edge::Shutdown)'s.

use std::io::{self, IsTerminal, stdin};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What would end the process if nothing listened, and means nothing here.
const IGNORED: [fn() -> SignalKind; 3] = [
    SignalKind::user_defined1,
    SignalKind::user_defined2,
    SignalKind::alarm,
];

/// SIGHUP, which has two senders.
#[derive(Debug)]
pub struct Hangups {
    signal: Signal,
    had_terminal: bool,
}

/// What a SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// An operator wants the settings read again.
    Reload,
    /// The terminal that the process was started in is gone.
    TerminalGone,
}

impl Hangups {
    /// Listens to SIGHUP from now on, and ignores SIGUSR1, SIGUSR2 and SIGALRM. SIGPIPE is ignored by
    /// Rust's runtime.
    ///
    /// # Errors
    /// The signals cannot be listened to.
    pub fn listen() -> io::Result<Self> {
        for kind in IGNORED {
            // tokio never gives a signal back to the system, also when nobody listens to it any more.
            drop(signal(kind())?);
        }
        Ok(Self {
            signal: signal(SignalKind::hangup())?,
            had_terminal: stdin().is_terminal(),
        })
    }

    /// Waits for the next one; `None` if there can be none any more.
    pub async fn next(&mut self) -> Option<Hangup> {
        self.signal.recv().await?;
        // A terminal that is closed is none any more.
        Some(match self.had_terminal && !stdin().is_terminal() {
            true => Hangup::TerminalGone,
            false => Hangup::Reload,
        })
    }
}
