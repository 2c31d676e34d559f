//! Request bodies, read whole within a limit and out of one memory budget.
//!
//! What a gateway must know of a request stands in its body, and a request can only be sent a
//! second time if its bytes are still there. So bodies are read before anything is chosen; and
//! because anybody can send one, each has a limit, all have a common budget, and none may take
//! for ever. Bodies that are too big to be kept (blobs) stream through.
//!
//! ```text
//!  head  body...........  | inner service                      | answer
//!        |- read clock -| |                                    |
//!        |-------- memory of a buffered body -- until its last copy is dropped
//! ```
//!
//! Nobody waits for memory. A body with a `Content-Length` has it reserved whole before a byte
//! is read; one without takes more as it grows; both are refused (503) when the budget is
//! empty.
//!
//! The layer belongs inside of what can refuse a request by its head (keys, rates, a cap on
//! requests), and outside of all that reads the body. It is ready at once: the inner service
//! is asked to be ready when the body is there, so that nothing which it hands out (a permit,
//! a connection) waits for a slow client.
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
