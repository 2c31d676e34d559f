//! Takes new connections from listening sockets, whatever the system says to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::gauges::Gauges;
use super::listener::{Accepted, Listener};

/// How long accepting rests when the system has no socket left.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// Whose turn it is.
    first: usize,
    /// While the system is short of sockets: when to ask it again.
    rests_until: Option<Instant>,
    is_short: bool,
    gauges: Arc<Gauges>,
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<Listener>, gauges: Arc<Gauges>) -> Self {
        Self {
            listeners,
            first: 0,
            rests_until: None,
            is_short: false,
            gauges,
        }
    }

    /// The next connection. Nothing is lost when the future is dropped.
    pub(super) async fn accept(&mut self) -> Accepted {
        loop {
            if let Some(until) = self.rests_until {
                sleep_until(until).await;
                self.rests_until = None;
            }
            match self.next().await {
                Ok(accepted) => {
                    self.is_short = false;
                    return accepted;
                }
                Err(error) if concerns_one(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.is_short, true) {
                        tracing::warn!(%error, "cannot accept connections; trying on");
                    }
                    self.gauges.accept_errors.fetch_add(1, Relaxed);
                    self.rests_until = Some(Instant::now() + PAUSE);
                }
            }
        }
    }

    /// The next connection of any listener, each in its turn.
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

/// Whether an error of `accept` is about the one connection that was to be accepted.
fn concerns_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
