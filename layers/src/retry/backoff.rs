//! How long is waited before a retry.

use std::time::Duration;

/// Waits that double, of each of which a random part is kept ("full jitter"), so that clients
/// that failed together do not come back together.
///
/// A retry that goes to another backend does not wait the first time. One that must go where it
/// failed waits as long as the backend asks for in `Retry-After`, if that is not too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    retry_after_limit: Duration,
}

impl Default for Backoff {
    /// From 25 ms up to 1 s, and up to 2 s where a backend asks for it.
    fn default() -> Self {
        Self::new(Duration::from_millis(25), Duration::from_secs(1))
    }
}

impl Backoff {
    /// Waits `first` at most the first time, then twice as long each time, and never more than
    /// `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            retry_after_limit: Duration::from_secs(2),
        }
    }

    /// The longest `Retry-After` that is waited for; beyond it the answer goes to the client,
    /// who can wait without holding a request open.
    pub fn with_retry_after_limit(mut self, limit: Duration) -> Self {
        self.retry_after_limit = limit;
        self
    }

    /// How long to wait before the retry with this number, the first being 1; `None` if it is
    /// too long to be worth it. `random` is between 0 and 1.
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
                retry_after: Some(asked),
            } => (asked <= self.retry_after_limit).then(|| wait.max(asked)),
            _ => Some(wait),
        }
    }
}

/// Where a retry goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// To a backend that was not asked yet.
    Elsewhere,
    /// To one that has failed, and what it asked for.
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
    fn what_a_backend_asks_for_is_waited_for_within_the_limit() {
        let wait = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            Backoff::default().wait(1, Next::Same { retry_after }, 0.5)
        };
        assert_eq!(wait(1), Some(Duration::from_secs(1)));
        assert_eq!(wait(2), Some(Duration::from_secs(2)));
        assert_eq!(wait(3), None);
    }

    #[test]
    fn no_number_is_too_great() {
        let endless = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(endless.wait(u32::MAX, SAME, 0.0), Some(Duration::ZERO));
    }
}
