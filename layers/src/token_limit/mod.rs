//! Tokens in a time, for each key: a minute, a day, a month.
//!
//! What a request costs is known when its answer ends. So an estimate is reserved before, out of
//! every window at once, and settled with what the backend counted
//! ([`UsageReport`](crate::usage::UsageReport)) at the end. A request that finds too little left in
//! one of its windows is refused with [`TokensExhausted`], which says when that window begins anew.
//!
//! ```text
//! request ── reserve ── head ────────── stream ────────── end
//!            estimate   │ no success:                     │ what was counted, or, where the
//!            or 429     │ nothing was used                │ stream broke off before it was
//!                       ▼                                 ▼ said, estimate + lines sent
//!                     refund                            settle
//! ```
//!
//! A stream that its client leaves is charged for what was sent, so leaving before the last line is
//! no way to have tokens for nothing; a refund is for requests that had no answer. Windows are
//! those of the calendar, in a time zone of choice, and tokens count in the windows that they were
//! reserved in.
//!
//! In a stack it belongs inside of what knows the key and of the cache, whose answers cost
//! nothing, and outside of retries, with [`UsageLayer`](crate::usage::UsageLayer) further inside.
//! Counts are kept by a [`TokenStore`]: [`MemoryStore`] here, or one of your own that several
//! processes share. governor, which [`rate_limit`](crate::rate_limit) stands on, has no refunds.
//!
//! A hundred thousand tokens a day for each value of a header:
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
//! Several windows, a time zone, and one key with more:
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
//! let everybody = [
//!     Budget::new(tokens(20_000), Window::Minute),
//!     Budget::new(tokens(5_000_000), Window::Month),
//! ];
//! let generous: Arc<[Budget]> = Arc::new([Budget::new(tokens(1_000_000), Window::Day)]);
//! let store = MemoryStore::new(TimeZone::fixed(Offset::constant(2)));
//! let layer = TokenLimitLayer::with_store(store, everybody, |request: &Parts| {
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
pub use service::TokenLimitService;
pub use settlement::Settlement;
pub use store::{Granted, Standing, TokenStore, Verdict};
pub use window::{Budget, Window};
