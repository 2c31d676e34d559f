//! One timer for all clocks of a request.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is made when it is first set, and can be handed on while it is set.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it will wake; `None` when it was set anew since.
    waker: Option<Waker>,
    is_off: bool,
}

impl Timer {
    /// Lets it ring at `at`, or not at all.
    pub(super) fn set(&mut self, at: Option<Instant>) {
        self.waker = None;
        self.is_off = at.is_none();
        let Some(at) = at else {
            return;
        };
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(sleep_until(at))),
        }
    }

    /// Ready when it has rung. Most polls find that it has not, and that it knows whom to wake;
    /// they cost two comparisons.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sleep) = self.sleep.as_mut().filter(|_| !self.is_off) else {
            return Poll::Pending;
        };
        let is_known = |waker: &Waker| waker.will_wake(cx.waker());
        if self.waker.as_ref().is_some_and(is_known) && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        // A poll that were put off for the sake of other tasks would leave no waker behind.
        if pin!(unconstrained(sleep.as_mut())).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
