//! Accepts connections from the listening sockets, and continues after errors of the system.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::gauges::Gauges;
use super::listener::{Accepted, Listener};

/// Pause after an error such as "too many open files".
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// The listener that is polled first, so that each has its turn.
    first: usize,
    /// End of the pause after an error.
    paused_until: Option<Instant>,
    is_failing: bool,
    gauges: Arc<Gauges>,
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<Listener>, gauges: Arc<Gauges>) -> Self {
        Self {
            listeners,
            first: 0,
            paused_until: None,
            is_failing: false,
            gauges,
        }
    }

    /// The next connection. Nothing is lost when the future is dropped.
    pub(super) async fn accept(&mut self) -> Accepted {
        loop {
            if let Some(until) = self.paused_until {
                sleep_until(until).await;
                self.paused_until = None;
            }
            match self.next().await {
                Ok(accepted) => {
                    self.is_failing = false;
                    return accepted;
                }
                Err(error) if concerns_one(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::warn!(%error, "cannot accept connections; retrying every 100 ms");
                    }
                    self.gauges.accept_errors.fetch_add(1, Relaxed);
                    self.paused_until = Some(Instant::now() + PAUSE);
                }
            }
        }
    }

    /// The next connection, from any listener, round robin.
    async fn next(&mut self) -> io::Result<Accepted> {
        let Self {
            listeners, first, ..
        } = self;
        std::future::poll_fn(|cx| {
            for turn in 0..listeners.len() {
                let index = (*first + turn) % listeners.len();
                if let Poll::Ready(accepted) = listeners[index].poll_accept(cx) {
                    *first = index + 1;
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Whether an error of `accept` concerns a single connection only, which failed before it was
/// accepted.
fn concerns_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
