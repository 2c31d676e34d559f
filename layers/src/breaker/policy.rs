//! When a breaker opens and closes.

use std::num::NonZeroU32;
use std::time::Duration;

/// When a breaker opens, for how long, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPolicy {
    pub(super) consecutive: Option<NonZeroU32>,
    pub(super) ratio: f64,
    pub(super) min_requests: NonZeroU32,
    pub(super) window: Duration,
    pub(super) open_for: Duration,
    pub(super) open_at_most: Duration,
    pub(super) probes: NonZeroU32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            consecutive: Some(number(5)),
            ratio: 0.5,
            min_requests: number(20),
            window: Duration::from_secs(30),
            open_for: Duration::from_secs(2),
            open_at_most: Duration::from_secs(60),
            probes: NonZeroU32::MIN,
        }
    }
}

impl BreakerPolicy {
    /// Opens after this many failures in a row, for any number of requests; `None` for never. The
    /// default is 5.
    ///
    /// Inside of a `RetryLayer` each attempt counts: three attempts of one request are three failures.
    pub fn with_consecutive_failures(mut self, failures: Option<NonZeroU32>) -> Self {
        self.consecutive = failures;
        self
    }

    /// Opens when this share of the requests in the window failed and there were at least
    /// `min_requests`. The default is half of 20. Above 1 it never opens.
    pub fn with_failure_ratio(mut self, ratio: f64, min_requests: NonZeroU32) -> Self {
        self.ratio = ratio;
        self.min_requests = min_requests;
        self
    }

    /// The length of the window. The default is 30 s.
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How long it stays open; doubled each time a probe fails, up to `at_most`. The defaults are 2
    /// s and 60 s.
    pub fn with_open_for(mut self, open_for: Duration, at_most: Duration) -> Self {
        self.open_for = open_for;
        self.open_at_most = at_most.max(open_for);
        self
    }

    /// How many probes may wait for the head of their response while it is half-open, and how many
    /// must succeed before it closes. The default is 1.
    pub fn with_probes(mut self, probes: NonZeroU32) -> Self {
        self.probes = probes;
        self
    }
}
