//! Bodies that layers pass on: what rides an answer to its end, and what can be sent again.

mod error;
mod guarded;
mod machine;
mod memory;
pub(crate) mod read_clock;
mod replay;

pub use error::{BodyReadTimeout, ClientBodyFailed};
pub use guarded::Guarded;
pub use memory::{MemoryBudget, Reservation};
pub use replay::ReplayBody;

/// A body whose bytes may be in memory already, for layers that look into them.
pub trait Buffered {
    /// All bytes, in pieces; `None` if they are still to come.
    fn segments(&self) -> Option<&[bytes::Bytes]>;
}

/// A body that can be sent again, for retries.
pub trait Replay: Sized {
    /// The same body from its beginning, without a copy of its bytes; `None` if it cannot be
    /// had again, because it streams.
    fn replay(&self) -> Option<Self>;
}
