//! Where counts are kept.

use std::future::Future;
use std::time::Duration;

use super::Budget;
use crate::store::StoreUnavailable;

/// Keeps the counts of [`TokenLimitLayer`](super::TokenLimitLayer), by key.
///
/// It is made so that one of several processes can have it elsewhere: a reservation is one atomic
/// step, whose answer is waited for no longer than the layer's deadline; a settlement is never
/// waited for.
pub trait TokenStore<K> {
    /// What a request holds until it is settled.
    type Reservation;
    /// The answer under way.
    type Reserving: Future<Output = Result<Verdict<Self::Reservation>, StoreUnavailable>>;

    /// Takes `tokens` out of all budgets, or out of none.
    ///
    /// More than a budget has counts as all of it: an estimate must not make a request impossible.
    fn reserve(&self, key: K, budgets: &[Budget], tokens: u64) -> Self::Reserving;

    /// Puts what was used in the place of what was reserved. Called from `Drop`, so it must not
    /// block: a store elsewhere hands it to a queue of its own, which is bounded.
    fn settle(&self, reservation: Self::Reservation, used: u64);
}

/// What a store says of a reservation: made, or refused by the budget that lasts longest.
pub type Verdict<R> = Result<Granted<R>, Standing>;

/// A reservation that was made.
#[derive(Debug)]
pub struct Granted<R> {
    /// To be settled.
    pub reservation: R,
    /// Where it leaves each budget, in their order.
    pub standings: Vec<Standing>,
}

/// Where one budget stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The budget.
    pub budget: Budget,
    /// How many tokens are left, reservations counted as used.
    pub remaining: u64,
    /// After how long its window begins anew.
    pub reset: Duration,
}
