//! A clock that starts and stops often and runs out rarely.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Starting the clock notes a deadline. The runtime's timer is touched when the clock is polled
/// for the first time, when a deadline comes before the one the timer was set for, and when the
/// timer fires before its time because the deadline has moved on: not at every start.
#[derive(Debug, Default)]
pub(super) struct Clock {
    deadline: Option<Instant>,
    /// Boxed on first use; many clocks never run.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Begins to count to `limit`, or stops if there is none.
    pub(super) fn start(&mut self, limit: Option<Duration>) {
        self.deadline = limit.map(|limit| Instant::now() + limit);
    }

    pub(super) fn stop(&mut self) {
        self.deadline = None;
    }

    pub(super) fn is_running(&self) -> bool {
        self.deadline.is_some()
    }

    /// Ready when the time is over; pending while the clock is stopped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        if sleep.deadline() < deadline {
            sleep.as_mut().reset(deadline);
            return sleep.as_mut().poll(cx);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    async fn over_after(clock: &mut Clock) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| clock.poll(cx)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_out_when_the_last_start_says() {
        let mut clock = Clock::default();
        for limit in [30, 120, 10, 60] {
            clock.start(Some(seconds(limit)));
            assert_eq!(over_after(&mut clock).await, seconds(limit));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_start_moves_the_end_on() {
        let mut clock = Clock::default();
        for _ in 0..5 {
            clock.start(Some(seconds(30)));
            let early = tokio::time::timeout(seconds(29), over_after(&mut clock));
            assert!(early.await.is_err());
        }
        assert_eq!(over_after(&mut clock).await, seconds(1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_run_out_while_stopped() {
        let mut clock = Clock::default();
        clock.start(Some(seconds(1)));
        clock.stop();
        assert!(!clock.is_running());
        let never = tokio::time::timeout(seconds(60), over_after(&mut clock));
        assert!(never.await.is_err());
        clock.start(None);
        assert!(!clock.is_running());
    }
}
