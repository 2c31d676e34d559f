//! Asks again, as long as the client has not seen a byte.
//!
//! A connection that was refused, a server that is too busy to load a model, one that says
//! nothing: another backend may do better, and as long as nothing went to the client it need
//! not know. What changes a server is never sent twice, an answer that has begun is final, and
//! a [`RetryBudget`] keeps retries from becoming the load that brings everything down.
//!
//! ```text
//! call ── attempt 1 ✗ ── attempt 2 (at once, elsewhere) ✗ ── wait ── attempt 3 ── head → client
//!         └ budget spent ┘                             └ budget spent ┘           (final)
//! ```
//!
//! It belongs outside of everything that is of one backend, and inside of whatever counts
//! requests. The inner service finds [`Attempts`] among the request's extensions: which attempt
//! it is, and who was asked before.
//!
//! ```
//! use std::num::NonZeroU32;
//! use llamatower_layers::retry::{RetryBudget, RetryLayer};
//!
//! let default = RetryLayer::new(RetryBudget::default());
//! let patient = RetryLayer::new(RetryBudget::new(0.1, 1.0))
//!     .with_attempts(NonZeroU32::new(5).expect("not zero"));
//! # let _ = (default, patient);
//! ```

mod attempts;
mod budget;
mod layer;
mod service;

#[cfg(test)]
mod tests;

pub use attempts::Attempts;
pub use budget::RetryBudget;
pub use layer::RetryLayer;
pub use service::Retry;
