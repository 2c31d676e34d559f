//! Clocks for streams: first byte, idle, total.
//!
//! A time-out on a whole exchange counts a long answer as a fault. What says that a server is
//! stuck is silence: before the first byte, while it loads a model and reads the prompt, and
//! between two bytes, while it generates. Each has a clock of its own, and a total one is there
//! for who insists.
//!
//! ```text
//! call ── request body ── sent ───────── head ── frame ───── frame ── end
//!                          └ first byte ┘  └ idle ┘└ idle ──┘
//! └────────────────────────── total ────────────────────────────────┘
//! ```
//!
//! The first-byte clock starts when the request's body has been sent, so a large upload does
//! not count. The idle clock runs only while the body of the answer is being waited for: a
//! client that reads slowly does not run it down. It is for a server that hangs: one that dies closes its
//! connections, and one that is lost with its machine is found by TCP keep-alive where that is on. A frame costs a look at the clock and no timer
//! operation ([`Deadline`](crate::Deadline)): under 1 % of what a paced line costs the gateway.
//!
//! A clock in a body runs only while the body is polled. hyper does not poll it while a client
//! does not read, so whoever holds the client's socket needs a clock for that, and the total
//! one is not kept here then either.
//!
//! How long a connection may take to be made is for the client inside to know, as it alone sees
//! the difference between connecting and waiting.
//!
//! It belongs innermost, round the client of one backend, inside of retries: the first-byte
//! time-out may be retried elsewhere.
//!
//! ```
//! use std::time::Duration;
//! use llamatower_layers::clocks::StreamClocksLayer;
//!
//! let default = StreamClocksLayer::new();
//! let impatient = StreamClocksLayer::new()
//!     .with_first_byte(Some(Duration::from_secs(30)))
//!     .with_idle(Some(Duration::from_secs(5)))
//!     .with_quiet(|head| head.uri.path() == "/api/pull", None)
//!     .with_total(None);
//! # let _ = (default, impatient);
//! ```

mod error;
mod future;
mod layer;
mod request_body;
mod response_body;
mod service;

#[cfg(test)]
mod tests;

pub use error::{FirstByteTimeout, IdleTimeout, TotalTimeout};
pub use future::ClockedFuture;
pub use layer::StreamClocksLayer;
pub use request_body::ClockedRequestBody;
pub use response_body::ClockedBody;
pub use service::StreamClocks;
