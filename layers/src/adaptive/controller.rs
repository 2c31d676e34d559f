//! The limit and the rule that changes it. This code gets the time as an argument.

use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::Instant;

use super::LimitReached;

/// The minimum and maximum number of measured requests in a round.
const SHORTEST_ROUND: usize = 4;
const LONGEST_ROUND: usize = 32;

/// The result of a measured request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    /// The first byte came after this time.
    FirstByte(Duration),
    /// The request was cancelled after this time, before the first byte, or refused by a layer inside of
    /// this one.
    Cancelled(Duration),
    /// The backend answered that it is overloaded.
    Overloaded,
}

/// Counts requests and adapts their limit.
#[derive(Debug)]
pub(super) struct Controller {
    target: Duration,
    min: usize,
    max: usize,
    limit: usize,
    in_flight: usize,
    round: Round,
}

/// The measurements since the last change or check of the limit.
#[derive(Debug, Default)]
struct Round {
    /// Only requests sent after this time count: earlier ones were sent under another limit. `None`
    /// in the first round.
    since: Option<Instant>,
    samples: usize,
    /// The number of responses that did not begin in time.
    late: usize,
    /// Whether a request reached or exceeded the limit.
    was_full: bool,
}

impl Controller {
    pub(super) fn new(target: Duration) -> Self {
        Self {
            target,
            min: 1,
            max: 256,
            limit: 4,
            in_flight: 0,
            round: Round::default(),
        }
    }

    /// If `max` is below `min`, `min` is used for both.
    pub(super) fn set_bounds(&mut self, min: NonZeroUsize, max: NonZeroUsize) {
        self.min = min.get();
        self.max = max.get().max(self.min);
        self.set_limit(self.limit);
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.clamp(self.min, self.max);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn try_admit(&mut self) -> Result<(), LimitReached> {
        self.round.was_full |= self.in_flight + 1 >= self.limit;
        if self.in_flight >= self.limit {
            return Err(LimitReached { limit: self.limit });
        }
        self.in_flight += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Adds the result of a request that was sent at `sent`.
    pub(super) fn note(&mut self, sent: Instant, sample: Sample, now: Instant) {
        if self.round.since.is_some_and(|since| sent <= since) {
            return;
        }
        let is_late = match sample {
            Sample::FirstByte(after) => after > self.target,
            // A request that was cancelled in time shows nothing.
            Sample::Cancelled(after) if after <= self.target => return,
            Sample::Cancelled(_) => true,
            Sample::Overloaded => return self.decrease(now),
        };
        let round = &mut self.round;
        round.samples += 1;
        round.late += usize::from(is_late);
        if round.samples < self.limit.clamp(SHORTEST_ROUND, LONGEST_ROUND) {
            return;
        }
        if 2 * round.late > round.samples {
            self.decrease(now);
        } else if 4 * round.late <= round.samples && round.was_full {
            self.change(self.limit + 1, now);
        } else {
            self.change(self.limit, now);
        }
    }

    fn decrease(&mut self, now: Instant) {
        self.change(self.limit - self.limit.div_ceil(10), now);
    }

    fn change(&mut self, limit: usize, now: Instant) {
        self.set_limit(limit);
        self.round = Round {
            since: Some(now),
            ..Round::default()
        };
    }
}
