//! Which exhausted budgets of tokens the log has told.

use std::sync::{Mutex, PoisonError};

use foldhash::HashMap;
use llamatower_layers::token_limit::TokensExhausted;
use tokio::time::Instant;

use crate::clients::Client;

/// So many clients are remembered; further ones are not told, so that the log and the memory stay small.
const MOST_CLIENTS: usize = 10_000;

/// Whose budgets were told, and when their windows end: one warning for each window, and not for each
/// request. `None` stands for the budget of all clients.
#[derive(Debug, Default)]
pub(super) struct Warned(Mutex<HashMap<Option<Client>, Instant>>);

impl Warned {
    /// Whether the log has not told yet that this budget is exhausted; it is told now.
    pub(super) fn is_new(&self, exhausted: &TokensExhausted, client: Option<Client>) -> bool {
        let now = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whose = client.filter(|_| !exhausted.is_shared);
        if told.get(&whose).is_some_and(|end| *end > now) {
            return false;
        }
        if told.len() >= MOST_CLIENTS {
            told.retain(|_, end| *end > now);
        }
        let has_room = told.len() < MOST_CLIENTS;
        if has_room {
            told.insert(whose, now + exhausted.budget_state.reset);
        }
        has_room
    }
}
