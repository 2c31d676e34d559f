//! Body types: a guard to the end of a response, and a request body that can be sent again.

#[cfg(feature = "replay-body")]
mod common;
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
#[cfg(feature = "body-limit")]
pub(crate) use memory::Promise;
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a body in memory: it does not implement `Buffered`",
    note = "place `BodyLimitLayer` outside of this layer: it reads the body into a `ReplayBody`, which is one",
    note = "or make a `ReplayBody` of bytes that you have: `ReplayBody::from(bytes)`"
)]
pub trait Buffered {
    /// All bytes, in segments; `None` if the body is not buffered.
    fn segments(&self) -> Option<&[bytes::Bytes]>;

    /// A body of other bytes, to send in place of this one. Its memory is reserved from the budget of
    /// this body, if it has one, until it is dropped; `None` if the budget has too few bytes left.
    fn replaced(&self, bytes: bytes::Bytes) -> Option<Self>
    where
        Self: Sized;
}

/// A body that can be sent again, for retries: [`ReplayBody`], and with it `Full`, `Empty` and
/// `Either` of http-body-util, `String`, and a `Box` of these.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent a second time: it does not implement `Replay`",
    note = "a body that streams is gone when it has been sent, so a retry would have nothing to send",
    note = "in a server, place `BodyLimitLayer` outside of this layer: it reads the body into a `ReplayBody`",
    note = "in a client, send bytes: `http_body_util::Full<Bytes>`, or `ReplayBody::from(bytes)`"
)]
pub trait Replay: Sized {
    /// The same body from its beginning, with the same bytes in memory; `None` if it streams. Layers
    /// call it before they send the body; a body that was read in part may give only the rest.
    fn replay(&self) -> Option<Self>;
}
