//! Token limits for each key: per minute, day and month.
//!
//! Requests without a key are limited too: all of them share one account with the default budgets. They
//! can pass or be refused instead ([`TokenLimitLayer::without_key`]).
//!
//! The cost of a request is known when its response ends. So an estimate is reserved before the call,
//! in all windows at once, and replaced at the end by the backend's counts
//! ([`UsageReport`](crate::usage::UsageReport)). If one window has too few tokens left, the request
//! is refused with [`TokensExhausted`], which gives the time until that window resets.
//!
//! ```text
//! request ── reserve ── head ────────── stream ────────── end
//!            estimate   │ no success:                     │ the backend's counts, or, if
//!            or 429     │ nothing was used                │ the stream broke before them,
//!                       ▼                                 ▼ estimate + lines sent
//!                     refund                            settle
//! ```
//!
//! A stream that the client cancels is charged for the lines that were sent, so a client cannot
//! avoid the charge by disconnecting before the last line. A request without a response is
//! refunded, unless a backend had got it and the client disconnected or a time-out passed before the
//! response could begin ([`Outcome::unanswered`](crate::Outcome::unanswered)): it costs the estimate. Windows follow the calendar, in a time zone of your choice. Tokens count in the
//! windows in which they were reserved.
//!
//! Put this layer inside of the layer that knows the key and inside of the cache, whose responses
//! cost no tokens, and outside of retries, with [`UsageLayer`](crate::usage::UsageLayer) further
//! inside. A [`TokenStore`] keeps the counts: [`MemoryStore`] here, whose counts can be saved and
//! restored, or your own store that several processes share. The governor crate, which [`rate_limit`](crate::rate_limit) uses, has no
//! refunds.
//!
//! 100,000 tokens a day for each value of a header:
//!
//! ```
//! use std::num::NonZeroU64;
//!
//! use http::request::Parts;
//! use http::{Request, Response};
//! use llamatower_layers::token_limit::{Budget, TokenLimitLayer, Window};
//! use llamatower_layers::usage::UsageLayer;
//! use llamatower_layers::BoxError;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let budget = Budget::new(NonZeroU64::new(100_000).expect("not zero"), Window::Day);
//! let service = ServiceBuilder::new()
//!     .layer(TokenLimitLayer::new([budget], |request: &Parts| {
//!         request.headers.get("x-tenant").cloned()
//!     }))
//!     .layer(UsageLayer::new())
//!     .service(service_fn(async |_: Request<String>| {
//!         Ok::<_, BoxError>(Response::new(String::from("an answer")))
//!     }));
//! let request = Request::builder().header("x-tenant", "ada").body("x".repeat(400))?;
//! let answer = service.oneshot(request).await?;
//! assert!(answer.headers()["ratelimit"].to_str()?.starts_with(r#""tokens-day";r=99900;t="#));
//! # Ok(())
//! # }
//! ```
//!
//! Several windows, a time zone, and one key with a larger budget:
//!
//! ```
//! use std::num::NonZeroU64;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use http::request::Parts;
//! use jiff::tz::{Offset, TimeZone};
//! use llamatower_layers::store::WhenUnavailable;
//! use llamatower_layers::token_limit::{Budget, MemoryStore, TokenLimitLayer, Window};
//!
//! let tokens = |count| NonZeroU64::new(count).expect("not zero");
//! let default = [
//!     Budget::new(tokens(20_000), Window::Minute),
//!     Budget::new(tokens(5_000_000), Window::Month),
//! ];
//! let generous: Arc<[Budget]> = Arc::new([Budget::new(tokens(1_000_000), Window::Day)]);
//! let store = MemoryStore::new(TimeZone::fixed(Offset::constant(2)));
//! let layer = TokenLimitLayer::with_store(store, default, |request: &Parts| {
//!     request.headers.get("x-tenant").cloned()
//! })
//! .with_budgets_of(move |tenant| (tenant == "ada").then(|| generous.clone()))
//! .with_estimate(|_| 500)
//! .with_deadline(Duration::from_millis(20))
//! .when_unavailable(WhenUnavailable::Refuse);
//! # let _ = layer;
//! ```

mod error;
mod future;
mod layer;
mod ledger;
mod memory;
mod saved;
mod service;
mod settlement;
mod store;
#[cfg(test)]
mod tests;
mod window;

pub use error::TokensExhausted;
pub use future::TokenLimitFuture;
pub use layer::TokenLimitLayer;
pub use memory::{MemoryReservation, MemoryStore};
pub use saved::{AccountId, WindowUse};
pub use service::TokenLimitService;
pub use settlement::Settlement;
pub use store::{BudgetState, Granted, ReserveResult, TokenStore};
pub use window::{Budget, Window};
