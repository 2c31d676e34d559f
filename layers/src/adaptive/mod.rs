//! A limit on concurrent requests that adapts to the time to first byte.
//!
//! The number of requests that a model server can serve at once depends on the model, the GPU and
//! the lengths of the prompts; it is not known in advance. When it is exceeded, answers begin late:
//! the surplus requests wait inside the server until an earlier answer has ended. The limit rises
//! by one while answers begin in time. When they do not, it falls by a tenth, at least by one
//! (additive increase, multiplicative decrease). Requests beyond the limit are refused at once with
//! [`LimitReached`].
//!
//! ```text
//! call ── inner called ───────── head ── first frame ── frames ── end, error or drop
//!              │<───── time to first byte ──────>│                 │
//!              │<────────────────────────── permit ───────────────>│
//! ```
//!
//! Why this measure and this rule differ from the usual ones for services with short answers:
//!
//! - The total time of a response depends on its length, not on the load: 2000 tokens take 100 times
//!   as long as 20 on an idle server. The time to first byte is made of queueing, model load and
//!   prompt processing.
//! - Prompts differ as much as answers do, so the mean of a few times to first byte is noise, and
//!   one model load is an outlier of a minute. But a queue inside the server delays all requests.
//!   So the limit falls when more than half of a round was late, however late, and rises when at
//!   most a quarter was late.
//! - Gradient limits (Netflix's `gradient2`, Envoy's) and vector's adaptive concurrency compare
//!   with a moving baseline. During a long overload (LLM servers can be overloaded for hours) such
//!   a baseline adapts to the overload. A fixed target does not drift, and operators know it: the
//!   acceptable time to the first word.
//!
//! A round ends when as many requests were measured as the limit allows (4 to 32). Only requests
//! that were sent in this round count, so each change shows its effect before the next. A refusal
//! by the server (429, 503, 504) ends the round at once, and the limit falls. A request that was
//! cancelled after the target time without a byte counts as late, and so does one that a layer inside
//! of this one has refused so late, such as a queue. Their earlier refusals, and those that are the
//! client's fault, such as a used-up budget, show nothing about the server. The limit does not rise in
//! a round that did not reach it.
//!
//! Put this layer directly outside of the client of one backend, which it measures, and inside of
//! retries, which find another backend for refused requests. A response that is not a stream begins
//! when it is complete: exclude such requests with [`with_measured`](AdaptiveLayer::with_measured).
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
//! With bounds, and with a function that selects the measured requests:
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

pub use body::AdaptiveBody;
pub use error::LimitReached;
pub use future::AdaptiveFuture;
pub use layer::AdaptiveLayer;
pub use permit::Permit;
pub use service::AdaptiveService;
