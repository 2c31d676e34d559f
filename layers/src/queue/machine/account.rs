//! The service that a key has received.

use super::{Charge, Finished};

/// The service that a key received: tokens for each unit of weight, on the common scale of the
/// class.
///
/// The order of the keys goes by the counter, which holds the estimates of the requests in flight.
/// Where a key starts that was not waiting goes by the settled part alone. That part never falls,
/// so no key that starts at it can be left behind when an estimate turns out to be too high.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// The cost of the requests that have ended.
    settled: f64,
    /// The estimated cost of the requests in flight.
    estimated: f64,
    in_flight: usize,
}

impl Account {
    /// What the order of the keys goes by: the least is served first.
    pub(super) fn counter(&self) -> f64 {
        self.settled + self.estimated
    }

    /// The counter without the estimates of the requests in flight.
    pub(super) fn settled(&self) -> f64 {
        self.settled
    }

    /// Whether it holds a slot.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Begins at `start`, unless it has received more service than that.
    pub(super) fn lift(&mut self, start: f64) {
        self.settled = self.settled.max(start);
    }

    /// Charges the estimated cost of a request that is served now.
    pub(super) fn serve(&mut self, charge: Charge) {
        self.estimated += charge.units();
        self.in_flight += 1;
    }

    /// Replaces the estimate of a request that has ended by its real cost; without one, the
    /// estimate is the cost.
    pub(super) fn finish(&mut self, charge: Charge, finished: Finished) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.estimated = match self.in_flight {
            // Without the rounding errors of the sums.
            0 => 0.0,
            _ => (self.estimated - charge.units()).max(0.0),
        };
        self.settled += match finished.cost {
            Some(tokens) => charge.units_of(tokens),
            None => charge.units(),
        };
    }
}
