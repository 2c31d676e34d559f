//! A limit on log lines that clients can cause.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two log lines about the same.
const LOG_AGAIN: Duration = Duration::from_secs(10);

/// Lets one log line pass in ten seconds.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether a line may be logged now.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = logged.is_none_or(|at| now - at >= LOG_AGAIN);
        if is_due {
            *logged = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_passes_in_ten_seconds() {
        let seldom = Seldom::default();
        assert!(seldom.is_due() && !seldom.is_due());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(!seldom.is_due());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(seldom.is_due() && !seldom.is_due());
    }
}
