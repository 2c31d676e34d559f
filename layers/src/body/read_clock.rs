//! The clock that runs while the gateway waits for a client's bytes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::BodyReadTimeout;

/// One timer for a body, made at its first pause and armed only while waiting.
#[derive(Debug)]
pub(crate) struct ReadClock {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl ReadClock {
    /// A clock that goes off after a pause of `timeout`.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            sleep: None,
            is_waiting: false,
        }
    }

    /// To be called when bytes have come.
    pub(crate) fn stop(&mut self) {
        self.is_waiting = false;
    }

    /// To be called when the body has nothing ready: ready when the pause has lasted too long,
    /// or when `latest` has passed.
    pub(crate) fn poll_elapsed(
        &mut self,
        cx: &mut Context<'_>,
        latest: impl FnOnce() -> Option<Instant>,
    ) -> Poll<BodyReadTimeout> {
        if !self.is_waiting {
            self.is_waiting = true;
            // A timeout beyond what an Instant can hold is no timeout.
            let pause = Instant::now().checked_add(self.timeout);
            let Some(deadline) = pause.into_iter().chain(latest()).min() else {
                return Poll::Pending;
            };
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(sleep_until(deadline))),
            }
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx).map(|()| BodyReadTimeout {
                waited: self.timeout,
            }),
            None => Poll::Pending,
        }
    }
}
