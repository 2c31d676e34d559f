//! The store of the counts.

use std::future::Future;
use std::time::Duration;

use http::Extensions;

use super::Budget;
use crate::store::StoreUnavailable;

/// Keeps the counts of [`TokenLimitLayer`](super::TokenLimitLayer), by key.
///
/// The trait allows a store outside of the process: a reservation is one atomic step, and the layer
/// waits for it no longer than its deadline. The layer never waits for a settlement.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no store for the token counts of keys of type `{K}`",
    label = "not a store for this type of key",
    note = "use `MemoryStore<{K}>`, which needs `{K}: Clone + Hash + Eq`, or implement `TokenStore<{K}>`"
)]
pub trait TokenStore<K> {
    /// The reservation that a request holds until it is settled.
    type Reservation;
    /// The future of a reservation.
    type Reserving: Future<Output = Result<ReserveResult<Self::Reservation>, StoreUnavailable>>;

    /// Reserves `tokens` in all budgets, or in none. `None` stands for all requests without a key: they
    /// share an account of their own.
    ///
    /// An estimate above a whole budget counts as the whole budget, so that a high estimate does
    /// not make a request impossible.
    fn reserve(&self, key: Option<K>, budgets: &[Budget], tokens: u64) -> Self::Reserving;

    /// As [`reserve`](Self::reserve), for the request with these extensions. An outer layer can have asked
    /// an external store for several limits at once; the answer is in the extensions then, and the store
    /// takes it from there. By default this is `reserve`.
    fn reserve_for(
        &self,
        request: &Extensions,
        key: Option<K>,
        budgets: &[Budget],
        tokens: u64,
    ) -> Self::Reserving {
        let _ = request;
        self.reserve(key, budgets, tokens)
    }

    /// Replaces a reservation by the used tokens. Called from `Drop`, so it must not block: an
    /// external store puts it into its own bounded queue.
    fn settle(&self, reservation: Self::Reservation, used: u64);
}

/// The result of a reservation: granted, or refused by the exhausted budget with the latest reset.
pub type ReserveResult<R> = Result<Granted<R>, BudgetState>;

/// A granted reservation.
#[derive(Debug)]
pub struct Granted<R> {
    /// The reservation, to be settled.
    pub reservation: R,
    /// The state of each budget after the reservation, in the order of the budgets.
    pub budget_states: Vec<BudgetState>,
}

/// The remaining tokens of one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetState {
    /// The budget.
    pub budget: Budget,
    /// The remaining tokens; reserved tokens count as used.
    pub remaining: u64,
    /// The time until the window resets.
    pub reset: Duration,
}
