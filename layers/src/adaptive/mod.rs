//! A limit on requests in flight that finds its own height, by the time to first byte.
//!
//! How many requests a server of models can work on at once depends on the model, the card and
//! the lengths of prompts, and is known to nobody beforehand. What shows that it was exceeded is
//! that answers begin late: the surplus waits inside of the server until an answer before it has
//! ended. The limit rises by one as long as answers begin in time and falls by a tenth, at least
//! by one, when they do not (additive increase, multiplicative decrease). What exceeds it is
//! refused at once with [`LimitReached`].
//!
//! ```text
//! call ── inner called ───────── head ── first frame ── frames ── end, error or drop
//!              │<───── time to first byte ──────>│                 │
//!              │<────────────────────────── permit ───────────────>│
//! ```
//!
//! Why this measure and this rule, and not those of services with short answers:
//!
//! - The total time of an answer says how long it is, not how busy the server is: 2000 tokens
//!   take 100 times as long as 20 on an idle server. The time to first byte is queue, load and
//!   prompt.
//! - Prompts differ as much as answers do, so a mean of a few times to first byte is noise, and
//!   a model that is loaded once is an outlier of a minute. A queue though delays everybody: the
//!   limit falls when more than half of a round was late, by however much, and rises when at
//!   most a quarter was.
//! - Gradient limits (Netflix's `gradient2`, Envoy's) and vector's adaptive concurrency compare
//!   with a moving baseline. Under an overload that lasts, and LLM servers are overloaded for
//!   hours, such a baseline learns the overload. A target that is given does not drift, and
//!   operators know theirs: how long may it take until the first word?
//!
//! A round is over when as many requests were measured as the limit is high (4 to 32), of those
//! that were sent since the last one: each change shows its effect before the next. Refusals of
//! the server itself (429, 503, 504) end a round at once, with a fall. A request that is given
//! up late, with no byte seen, was late. The limit does not rise while it is not reached.
//!
//! It belongs right outside of what it measures, the client of one backend, and inside of
//! retries, which find another backend for what was refused. An answer that is not a stream
//! begins when it is complete: such requests should be left out by
//! [`with_measured`](AdaptiveLayer::with_measured).
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::BoxError;
//! use llamatower_layers::adaptive::AdaptiveLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let layer = AdaptiveLayer::new(Duration::from_secs(5));
//! let service = layer.layer(service_fn(async |_: Request<()>| {
//!     Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("some text")))
//! }));
//! let answer = service.oneshot(Request::new(())).await?;
//! assert_eq!(layer.in_flight(), 1);
//! answer.into_body().collect().await?;
//! assert_eq!(layer.in_flight(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! With bounds, and with a request's own word for whether it is measured:
//!
//! ```
//! use std::num::NonZeroUsize;
//! use std::time::Duration;
//!
//! use llamatower_layers::adaptive::AdaptiveLayer;
//!
//! let layer = AdaptiveLayer::new(Duration::from_secs(10))
//!     .with_initial(NonZeroUsize::new(8).unwrap())
//!     .with_bounds(NonZeroUsize::new(2).unwrap(), NonZeroUsize::new(64).unwrap())
//!     .with_measured(|parts| parts.uri.path() != "/api/embed");
//! assert_eq!(layer.limit(), 8);
//! ```

mod body;
mod controller;
mod error;
mod future;
mod layer;
mod permit;
mod service;
#[cfg(test)]
mod tests;

pub use body::FirstFrame;
pub use error::LimitReached;
pub use future::AdaptiveFuture;
pub use layer::AdaptiveLayer;
pub use permit::Permit;
pub use service::AdaptiveService;
