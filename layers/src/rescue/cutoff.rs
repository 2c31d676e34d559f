//! The moment at which everything under way ends.

use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::watch::Receiver;
use tokio::task::unconstrained;

/// Waits for a flag to turn true, at the cost of one atomic load a poll.
pub(super) struct Cutoff {
    /// The layer's own, which never takes note of a change: any is one that it has not seen.
    receiver: Arc<Receiver<bool>>,
    wait: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whom the flag will wake.
    waker: Option<Waker>,
}

impl Cutoff {
    pub(super) fn new(receiver: Arc<Receiver<bool>>) -> Self {
        Self {
            receiver,
            wait: None,
            waker: None,
        }
    }

    /// To be called only while there is nothing else to do.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_registered = match &self.waker {
            Some(waker) => waker.will_wake(cx.waker()),
            None => false,
        };
        if is_registered && !self.receiver.has_changed().unwrap_or(true) {
            return Poll::Pending;
        }
        let wait = self.wait.get_or_insert_with(|| {
            let receiver = Receiver::clone(&self.receiver);
            // A poll that were put off for the sake of other tasks would not register.
            Box::pin(unconstrained(wait_for(receiver)))
        });
        if wait.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

async fn wait_for(mut receiver: Receiver<bool>) {
    if receiver.wait_for(|is_over| *is_over).await.is_err() {
        // Nobody is left who could set it.
        pending::<()>().await;
    }
}

impl fmt::Debug for Cutoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cutoff")
            .field(&*self.receiver.borrow())
            .finish()
    }
}
