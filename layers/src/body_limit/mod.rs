//! Buffers request bodies within a limit for each route and one memory budget.
//!
//! The gateway needs data from the request's body, and can retry a request only while it has the
//! body's bytes. So it reads the body before it chooses a backend. Because any client can send a
//! body, each body has a size limit, all bodies share a memory budget, and each body has a time
//! limit. Bodies that are too large to buffer (blobs) stream through.
//!
//! ```text
//!  head  body...........  | inner service                      | answer
//!        |- read clock -| |                                    |
//!        |-------- memory of a buffered body -- until its last copy is dropped
//! ```
//!
//! No body waits for memory: it is refused (503) when the budget is used up.
//!
//! - A body whose `Content-Length` is promised reserves all of it before a byte is read. So it can be
//!   completed, whatever else arrives. The client has to send at a pace that
//!   completes the body within 60 s; a body that is behind it after the first 5 s loses the memory for what
//!   has not arrived.
//! - What is promised and has not arrived is at most half of the budget: clients that declare long bodies and
//!   send nothing leave the other half to the rest. A length beyond that, as any of more than half of the budget, is not
//!   promised; it is refused before a byte is read only if it is longer than what is free. The rest of it is promised
//!   later, when others have arrived.
//! - A body without a promise, or one that has lost that memory, reserves more as it grows, a little ahead of
//!   what has arrived. It may be refused midway.
//!
//! Put this layer inside of layers that can refuse a request by its head (API keys, rate limits, a
//! concurrency limit), and outside of all layers that read the body. It is always ready: it polls
//! the inner service for readiness after the body has arrived, so that a permit or a connection is
//! not held while a client is slow.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use llamatower_layers::BoxError;
//! use llamatower_layers::body::{MemoryBudget, ReplayBody};
//! use llamatower_layers::body_limit::{BodyLimitLayer, BodyRule};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(
//!         BodyLimitLayer::new(MemoryBudget::of_this_machine(0.5))
//!             .with_rule(|head| match head.uri.path() {
//!                 "/upload" => BodyRule::Stream,
//!                 _ => BodyRule::Buffer { limit: 1 << 20 },
//!             }),
//!     )
//!     .service(service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async move {
//!         Ok::<_, BoxError>(Response::new(request.body().len()))
//!     }));
//! let answer = service.oneshot(Request::new(Full::from("hello"))).await?;
//! assert_eq!(answer.into_body(), Some(5));
//! # Ok(())
//! # }
//! ```

mod buffering;
mod error;
mod future;
mod layer;
#[cfg(test)]
mod properties;
mod rule;
mod service;

#[cfg(test)]
mod tests;

pub use error::{BodyMemoryExhausted, BodyTooLarge};
pub use future::BodyLimitFuture;
pub use layer::BodyLimitLayer;
pub use rule::{BodyRule, RouteLimits};
pub use service::BodyLimitService;
