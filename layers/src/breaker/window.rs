//! Counters of recent requests.

use std::time::Duration;

use tokio::time::Instant;

const BUCKETS: usize = 10;

/// Successes and failures of a sliding window, in ten buckets.
#[derive(Clone, Debug)]
pub(super) struct Window {
    buckets: [Bucket; BUCKETS],
    /// The current bucket, and when it began.
    current: usize,
    since: Instant,
    width: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    requests: u32,
    failures: u32,
}

impl Window {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self {
            buckets: [Bucket::default(); BUCKETS],
            current: 0,
            since: now,
            width: (length / BUCKETS as u32).max(Duration::from_millis(1)),
        }
    }

    pub(super) fn record(&mut self, is_failure: bool, now: Instant) {
        self.turn(now);
        let bucket = &mut self.buckets[self.current];
        bucket.requests = bucket.requests.saturating_add(1);
        bucket.failures = bucket.failures.saturating_add(u32::from(is_failure));
    }

    /// Requests and failures in the window.
    pub(super) fn counts(&mut self, now: Instant) -> (u64, u64) {
        self.turn(now);
        self.buckets
            .iter()
            .fold((0, 0), |(requests, failures), bucket| {
                let requests = requests + u64::from(bucket.requests);
                (requests, failures + u64::from(bucket.failures))
            })
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < self.width {
            return;
        }
        let turns = passed.as_nanos() / self.width.as_nanos();
        for _ in 0..turns.min(BUCKETS as u128) {
            self.current = (self.current + 1) % BUCKETS;
            self.buckets[self.current] = Bucket::default();
        }
        let rest = passed.as_nanos() % self.width.as_nanos();
        let rest = Duration::from_nanos(u64::try_from(rest).unwrap_or(0));
        self.since = now.checked_sub(rest).unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_older_than_the_window_are_dropped_bucket_by_bucket() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut window = Window::new(Duration::from_secs(10), start);
        window.record(true, at(0));
        window.record(false, at(5));
        assert_eq!(window.counts(at(9)), (2, 1));
        assert_eq!(window.counts(at(10)), (1, 0));
        assert_eq!(window.counts(at(15)), (0, 0));
        assert_eq!(window.counts(at(100_000)), (0, 0));
    }
}
