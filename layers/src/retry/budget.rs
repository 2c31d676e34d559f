//! The retry budget: a share of the requests, and a minimum rate.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Limit of the saved minimum rate, in seconds: this bounds a burst after an idle time.
const FLOOR_SECONDS_SAVED: f64 = 1.0;

/// Limit of the saved share, in retries.
const RATIO_SAVED: f64 = 100.0;

/// A budget that all clones share. Each request adds a fraction of a retry, each second adds some
/// retries, and each retry takes one.
#[derive(Clone, Debug)]
pub struct RetryBudget(Arc<Mutex<Balance>>);

#[derive(Debug)]
struct Balance {
    ratio: f64,
    floor_per_second: f64,
    from_requests: f64,
    from_time: f64,
    updated: Option<Instant>,
}

impl Default for RetryBudget {
    /// One retry for five requests, and at least ten per second.
    fn default() -> Self {
        Self::new(0.2, 10.0)
    }
}

impl RetryBudget {
    /// `ratio` retries for each request, and `floor_per_second` in addition; negative values count
    /// as 0.
    pub fn new(ratio: f64, floor_per_second: f64) -> Self {
        // `max` also turns NaN into 0.
        let floor_per_second = floor_per_second.max(0.0);
        Self(Arc::new(Mutex::new(Balance {
            ratio: ratio.max(0.0),
            floor_per_second,
            from_requests: 0.0,
            from_time: floor_per_second * FLOOR_SECONDS_SAVED,
            updated: None,
        })))
    }

    pub(super) fn deposit(&self) {
        let mut balance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        balance.from_requests = (balance.from_requests + balance.ratio).min(RATIO_SAVED);
    }

    /// Takes one retry from the budget, if there is one.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .withdraw(now)
    }
}

impl Balance {
    fn withdraw(&mut self, now: Instant) -> bool {
        // Threads may arrive out of order. If the clock moved back, time would be counted twice.
        let then = self.updated.unwrap_or(now);
        let passed = now.saturating_duration_since(then).as_secs_f64();
        self.updated = Some(now.max(then));
        let most = self.floor_per_second * FLOOR_SECONDS_SAVED;
        self.from_time = (self.from_time + passed * self.floor_per_second).min(most);
        for account in [&mut self.from_requests, &mut self.from_time] {
            if *account >= 1.0 {
                *account -= 1.0;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn withdrawn(budget: &RetryBudget, now: Instant) -> usize {
        (0..1000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn a_share_of_the_requests_and_a_floor_in_time() {
        let start = Instant::now();
        let budget = RetryBudget::new(0.2, 10.0);
        assert_eq!(withdrawn(&budget, start), 10);
        (0..50).for_each(|_| budget.deposit());
        assert!((9..=10).contains(&withdrawn(&budget, start)));
        assert_eq!(withdrawn(&budget, start + Duration::from_millis(500)), 5);
        assert_eq!(withdrawn(&budget, start + Duration::from_secs(3600)), 10);
    }

    #[test]
    fn time_is_not_counted_twice_when_threads_are_out_of_order() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let budget = RetryBudget::new(0.0, 10.0);
        assert_eq!(withdrawn(&budget, start), 10);
        assert_eq!(withdrawn(&budget, later), 10);
        assert_eq!(withdrawn(&budget, start), 0);
        assert_eq!(withdrawn(&budget, later), 0);
    }

    #[test]
    fn the_budget_never_gives_more_than_was_added() {
        assert_eq!(withdrawn(&RetryBudget::new(0.0, 0.0), Instant::now()), 0);
    }
}
