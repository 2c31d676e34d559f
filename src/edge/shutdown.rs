//! Requests a shutdown: a drain first, then an immediate end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tells edges to drain, and then to end at once. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// A shutdown that is not requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that is requested by SIGTERM or SIGINT: the first signal drains, the second ends
    /// at once.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new();
        let ours = shutdown.clone();
        tokio::spawn(async move {
            for end in [&ours.drain, &ours.now] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                end.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Requests the drain.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Requests the immediate end.
    pub fn end_now(&self) {
        self.drain.cancel();
        self.now.cancel();
    }

    /// Waits until the drain is requested.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until the immediate end is requested.
    pub async fn ending(&self) {
        self.now.cancelled().await;
    }
}
