//! Bodies that layers pass on: what rides an answer to its end, and what can be sent again.

mod error;
mod guarded;
mod machine;
mod memory;
pub(crate) mod read_clock;
mod replay;
#[cfg(any(feature = "breaker", feature = "outcome"))]
mod rest;

pub use error::{BodyReadTimeout, ClientBodyFailed};
pub use guarded::Guarded;
pub use memory::{MemoryBudget, Reservation};
pub use replay::ReplayBody;
#[cfg(any(feature = "breaker", feature = "outcome"))]
pub(crate) use rest::Rest;

/// A body that can be sent again, for retries.
pub trait Replay: Sized {
    /// The same body from its beginning, without a copy of its bytes; `None` if it cannot be
    /// had again, because it streams.
    fn replay(&self) -> Option<Self>;
}
