//! The error of a refused request.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::BudgetState;
use crate::ratelimit_fields::{self, whole_seconds};
use crate::{Fail, Retryable, Side};

/// A budget has too few tokens left for the request. The request was not sent.
///
/// The response is a 429 (RFC 6585 4) with the `RateLimit` headers of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "token limit reached: {} of {} {} are left, too few for this request; the {} ends in {} s",
    .budget_state.remaining,
    if *.is_shared { "all clients'" } else { "this client's" },
    .budget_state.budget,
    .budget_state.budget.window().name(),
    whole_seconds(.budget_state.reset)
)]
#[non_exhaustive]
pub struct TokensExhausted {
    /// The budget. Of several exhausted budgets, the one with the latest reset.
    pub budget_state: BudgetState,
    /// Whether the budget is that of all clients together
    /// ([`with_shared_budgets`](super::TokenLimitLayer::with_shared_budgets)).
    pub is_shared: bool,
}

impl TokensExhausted {
    pub(super) fn new(budget_state: BudgetState, is_shared: bool) -> Self {
        Self {
            budget_state,
            is_shared,
        }
    }
}

impl Fail for TokensExhausted {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::TOO_MANY_REQUESTS
    }
    fn kind(&self) -> &'static str {
        "tokens_exhausted"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.budget_state.reset)
    }
    fn write_headers(&self, headers: &mut HeaderMap) {
        write_budget_states(headers, &[self.budget_state]);
    }
}

pub(super) fn write_budget_states(headers: &mut HeaderMap, budget_states: &[BudgetState]) {
    for budget_state in budget_states {
        let window = budget_state.budget.window();
        let length = match window {
            super::Window::Minute => Some(60),
            super::Window::Day => Some(86_400),
            super::Window::Month => None,
        };
        let name = window.field_name();
        let policy = ratelimit_fields::policy(name, budget_state.budget.tokens(), length);
        ratelimit_fields::append(
            headers,
            policy,
            name,
            budget_state.remaining,
            budget_state.reset,
        );
    }
}
