//! The wait before a retry.

use std::time::Duration;

/// Exponential back-off with full jitter, so that clients that failed together do not return
/// together.
///
/// The first retry at another backend does not wait. A retry at a backend that has failed waits for
/// its `Retry-After`, within a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    retry_after_limit: Duration,
}

impl Default for Backoff {
    /// From 25 ms up to 1 s; `Retry-After` up to 2 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(25), Duration::from_secs(1))
    }
}

impl Backoff {
    /// Waits at most `first` before the first retry, then twice as long each time, up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            retry_after_limit: Duration::from_secs(2),
        }
    }

    /// The longest `Retry-After` that is waited for. Above it, the response is passed to the
    /// client, which can wait without an open request.
    pub fn with_retry_after_limit(mut self, limit: Duration) -> Self {
        self.retry_after_limit = limit;
        self
    }

    /// The wait before the retry with this number, beginning with 1; `None` if it is too long.
    /// `random` is between 0 and 1.
    pub(super) fn wait(&self, retry: u32, next: Next, random: f64) -> Option<Duration> {
        let doublings = match next {
            Next::Elsewhere if retry <= 1 => return Some(Duration::ZERO),
            Next::Elsewhere => retry - 2,
            Next::Same { .. } => retry.saturating_sub(1),
        };
        let most = self.first.saturating_mul(2_u32.saturating_pow(doublings));
        let wait = most.min(self.longest).mul_f64(random);
        match next {
            Next::Same {
                retry_after: Some(requested),
            } => (requested <= self.retry_after_limit).then(|| wait.max(requested)),
            _ => Some(wait),
        }
    }
}

/// The target of a retry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// A backend that was not tried yet.
    Elsewhere,
    /// A backend that has failed, with its `Retry-After`.
    Same { retry_after: Option<Duration> },
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Next = Next::Same { retry_after: None };

    fn most(next: Next) -> Vec<u128> {
        let wait = |retry| Backoff::default().wait(retry, next, 1.0);
        (1..=8)
            .map(|retry| wait(retry).expect("it is short").as_millis())
            .collect()
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(most(SAME), [25, 50, 100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn the_first_retry_elsewhere_does_not_wait() {
        assert_eq!(most(Next::Elsewhere), [0, 25, 50, 100, 200, 400, 800, 1000]);
    }

    #[test]
    fn retry_after_is_waited_for_within_the_limit() {
        let wait = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            Backoff::default().wait(1, Next::Same { retry_after }, 0.5)
        };
        assert_eq!(wait(1), Some(Duration::from_secs(1)));
        assert_eq!(wait(2), Some(Duration::from_secs(2)));
        assert_eq!(wait(3), None);
    }

    #[test]
    fn large_retry_numbers_do_not_overflow() {
        let endless = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(endless.wait(u32::MAX, SAME, 0.0), Some(Duration::ZERO));
    }
}
