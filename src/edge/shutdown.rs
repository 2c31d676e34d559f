//! The wish to end, gently and at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tells edges to drain, and then to end at once. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGTERM and SIGINT ask for: the first drains, the second ends at once.
    ///
    /// # Errors
    /// The signals cannot be listened to.
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

    /// Asks for the drain.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks for the end.
    pub fn end_now(&self) {
        self.drain.cancel();
        self.now.cancel();
    }

    /// Waits until the drain is asked for.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until the end is asked for.
    pub async fn ending(&self) {
        self.now.cancelled().await;
    }
}
