//! The phases of a drain, as connections see them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Requests are served.
    Serving,
    /// Requests are served, each with `Connection: close`; `/health` says 503.
    Leaving,
    /// Nothing is accepted; idle connections close.
    Draining,
    /// What is left is cut off.
    Over,
}

/// Sees the phase change without asking for it each time that its task is polled.
pub(super) struct PhaseWatch {
    phase: watch::Receiver<Phase>,
    seen: Phase,
    change: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl PhaseWatch {
    pub(super) fn new(phase: watch::Receiver<Phase>) -> Self {
        Self {
            phase,
            seen: Phase::Serving,
            change: None,
        }
    }

    /// The new phase, if there is one. The task's waker is registered once for each phase: a
    /// task keeps its waker, and this is called for every frame of every stream.
    pub(super) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        if self.change.is_some() && !self.phase.has_changed().unwrap_or(false) {
            return Poll::Pending;
        }
        let now = *self.phase.borrow_and_update();
        let mut receiver = self.phase.clone();
        let mut change: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let _ = receiver.changed().await;
        });
        if change.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.change = Some(change);
        if now == self.seen {
            return Poll::Pending;
        }
        self.seen = now;
        Poll::Ready(now)
    }
}
