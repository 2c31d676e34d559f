//! Bodies that layers pass on: what rides an answer to its end, and what can be sent again.

mod guarded;

pub use guarded::Guarded;

/// A body that can be sent again, for retries.
pub trait Replay: Sized {
    /// The same body from its beginning, without a copy of its bytes; `None` if it cannot be
    /// had again, because it streams.
    fn replay(&self) -> Option<Self>;
}
