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
    /// The part of the settled cost that was not told to the other processes yet.
    untold: f64,
    pub(super) told: Told,
}

/// Whether the other processes, with which the queue exchanges service, are told of the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Told {
    /// It is new.
    #[default]
    Never,
    /// It is listed, to be told.
    Listed,
    /// They were told, as far as it was listed.
    Yes,
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

    /// Whether something would be lost without it: it holds a slot, or the other processes are to be
    /// told of it.
    pub(super) fn is_in_use(&self) -> bool {
        self.in_flight > 0 || self.told == Told::Listed
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
        let cost = match finished.cost {
            Some(tokens) => charge.units_of(tokens),
            None => charge.units(),
        };
        self.settled += cost;
        self.untold += cost;
    }

    /// The settled cost that the other processes know, and what is to be added. Both count as told
    /// then.
    pub(super) fn tell(&mut self) -> (f64, f64) {
        self.told = Told::Yes;
        let added = std::mem::take(&mut self.untold);
        (self.settled - added, added)
    }

    /// Raises the settled cost to that which all processes together have served.
    pub(super) fn raise(&mut self, served: f64) {
        self.lift(served + self.untold);
    }

    /// Moves the account to another scale.
    pub(super) fn shift(&mut self, by: f64) {
        self.settled += by;
    }

    /// Whether there is something to tell.
    pub(super) fn is_untold(&self) -> bool {
        self.untold > 0.0
    }
}
