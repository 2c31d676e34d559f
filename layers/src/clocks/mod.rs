//! Time-outs for streams: first byte, idle, total.
//!
//! A time-out of the whole exchange treats a long response as an error. A stuck server is
//! recognised by silence: before the first byte, while it loads a model and reads the prompt, and
//! between two bytes, while it generates. Each has its own time-out; a total time-out is optional.
//!
//! ```text
//! call ── request body ── sent ───────── head ── frame ───── frame ── end
//!                          └ first byte ┘  └ idle ┘└ idle ──┘
//! └────────────────────────── total ────────────────────────────────┘
//! ```
//!
//! The first-byte clock starts when the request's body has been sent, so a large upload does not
//! count. The idle clock runs only while the response's body is polled, so a slow client does not
//! count. It detects a server that hangs: a server that dies closes its connections, and TCP
//! keep-alive detects a lost machine. A frame costs one clock read and no timer operation
//! ([`Deadline`](crate::Deadline)): under 1 % of what a paced line costs the gateway.
//!
//! A clock in a body runs only while the body is polled. hyper does not poll it while a client does
//! not read. So the owner of the client's socket needs a time-out for that, and the total time-out
//! is not enforced here meanwhile.
//!
//! A request can have its own time-outs: [`StreamTimeouts`] in its extensions.
//!
//! The connect time-out belongs to the inner client, which can distinguish connecting from waiting.
//!
//! Place it innermost, around the client of one backend and inside of retries, because a request
//! may be retried elsewhere after the first-byte time-out.
//!
//! ```
//! use std::time::Duration;
//! use llamatower_layers::clocks::StreamClocksLayer;
//!
//! let default = StreamClocksLayer::new();
//! let strict = StreamClocksLayer::new()
//!     .with_first_byte(Some(Duration::from_secs(30)))
//!     .with_idle(Some(Duration::from_secs(5)))
//!     .with_quiet(|head| head.uri.path() == "/api/pull", None)
//!     .with_total(None);
//! # let _ = (default, strict);
//! ```

mod error;
mod future;
mod layer;
mod request_body;
mod response_body;
mod service;
mod timeouts;

#[cfg(test)]
mod tests;

pub use error::{FirstByteTimeout, IdleTimeout, TotalTimeout};
pub use future::StreamClocksFuture;
pub use layer::{LimitNames, StreamClocksLayer};
pub use request_body::StreamClocksRequestBody;
pub use response_body::StreamClocksBody;
pub use service::StreamClocksService;
pub use timeouts::StreamTimeouts;
