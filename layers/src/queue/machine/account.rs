//! The service that a key has received.

use super::{Charge, Finished};

/// The service that a key received: tokens for each unit of weight, on the common scale of the
/// class.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    pub(super) counter: f64,
    pub(super) in_flight: usize,
}

impl Account {
    /// Charges the account for a request that is served now. Returns the counter before the charge.
    pub(super) fn serve(&mut self, floor: f64, charge: Charge) -> f64 {
        let start = self.counter.max(floor);
        self.counter = start + charge.units();
        self.in_flight += 1;
        start
    }

    /// Replaces the estimate of a request that has ended by its real cost, if that is known.
    pub(super) fn finish(&mut self, charge: Charge, finished: Finished) {
        let correction = finished.cost.map_or(0.0, |cost| charge.correction(cost));
        self.in_flight = self.in_flight.saturating_sub(1);
        self.counter = (self.counter + correction).max(0.0);
    }
}
