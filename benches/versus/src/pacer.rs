//! A timer with microsecond precision, for lines that are sent when they are due.
//!
//! The runtime's own timer has a precision of milliseconds: the lines of independent streams would
//! be sent together, a dozen at a time, and queue in the proxy.

use std::{
    collections::BinaryHeap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

/// Wakes tasks at given times. It polls the clock all the time, so it needs its own core.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    waiting: Mutex<BinaryHeap<Waiting>>,
    waiter_added: Notify,
    streams: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    due: Instant,
    wake: oneshot::Sender<()>,
}

impl Pacer {
    /// Starts a pacer that runs as long as the runtime.
    pub(crate) fn start() -> Arc<Self> {
        let pacer = Arc::<Self>::default();
        tokio::spawn(Arc::clone(&pacer).run());
        pacer
    }

    async fn run(self: Arc<Self>) {
        loop {
            if self.waiting().is_empty() {
                self.waiter_added.notified().await;
            }
            let now = Instant::now();
            while let Some(first) = self.take_due(now) {
                // A dropped waiter needs no wake-up.
                first.wake.send(()).ok();
            }
            tokio::task::yield_now().await;
        }
    }

    fn take_due(&self, now: Instant) -> Option<Waiting> {
        let mut waiting = self.waiting();
        let is_due = waiting.peek().is_some_and(|first| first.due <= now);
        is_due.then(|| waiting.pop()).flatten()
    }

    /// Waits until it is `due`.
    pub(crate) async fn until(&self, due: Instant) {
        let (wake, woken) = oneshot::channel();
        self.waiting().push(Waiting { due, wake });
        self.waiter_added.notify_one();
        // The pacer lives as long as the runtime, and so does this future.
        woken.await.ok();
    }

    /// The delay from the request of the next stream to its first line: the streams of many clients
    /// are independent. The delays are the same in every run.
    pub(crate) fn phase(&self, pace: Duration) -> Duration {
        pace.mul_f64(share(self.streams.fetch_add(1, Relaxed)))
    }

    fn waiting(&self) -> MutexGuard<'_, BinaryHeap<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number from 0 to 1, independent of the number for the next `nth` (the finaliser of
/// SplitMix64).
fn share(nth: u64) -> f64 {
    let mut bits = nth.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

// The first due waiter is the greatest.
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Waiting {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_woken_in_the_order_of_their_times() {
        let pacer = Pacer::default();
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        for millis in [3, 1, 9, 2] {
            let (wake, _) = oneshot::channel();
            let due = at(millis);
            pacer.waiting().push(Waiting { due, wake });
        }
        let woken = std::iter::from_fn(|| pacer.take_due(at(3)));
        let woken: Vec<_> = woken.map(|first| first.due).collect();
        assert_eq!(woken, [1, 2, 3].map(at));
    }

    #[tokio::test]
    async fn no_waiter_is_woken_before_its_time() {
        let pacer = Pacer::start();
        let due = Instant::now() + Duration::from_millis(2);
        pacer.until(due).await;
        assert!(Instant::now() >= due);
    }

    #[test]
    fn phases_are_spread_over_the_pace() {
        let mut tenths = [0; 10];
        for nth in 0..10_000 {
            tenths[(share(nth) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (900..1_100).contains(count)));
    }
}
