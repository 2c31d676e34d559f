//! Body types: a guard to the end of a response, and a request body that can be sent again.

#[cfg(feature = "replay-body")]
mod error;
mod guarded;
#[cfg(feature = "replay-body")]
mod machine;
#[cfg(feature = "replay-body")]
mod memory;
#[cfg(any(feature = "breaker", feature = "outcome"))]
mod remaining;
#[cfg(feature = "replay-body")]
mod replay;

#[cfg(feature = "replay-body")]
pub use error::{BodyReadTimeout, ClientBodyFailed};
pub use guarded::Guarded;
#[cfg(feature = "replay-body")]
pub use memory::{MemoryBudget, Reservation};
#[cfg(any(feature = "breaker", feature = "outcome"))]
pub(crate) use remaining::RemainingLength;
#[cfg(feature = "replay-body")]
pub use replay::ReplayBody;
#[cfg(feature = "body-limit")]
pub(crate) use replay::Segments;

/// A body whose bytes may be in memory, for layers that read them.
#[cfg(feature = "replay-body")]
pub trait Buffered {
    /// All bytes, in segments; `None` if the body is not buffered.
    fn segments(&self) -> Option<&[bytes::Bytes]>;
}

/// A body that can be sent again, for retries.
pub trait Replay: Sized {
    /// The same body from its beginning, without a copy of its bytes; `None` if it streams.
    fn replay(&self) -> Option<Self>;
}
