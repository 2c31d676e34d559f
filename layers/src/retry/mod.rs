//! Asks again, as long as the client has not seen a byte.
//!
//! A connection that was refused, a server that is too busy to load a model, one that says
//! nothing: another backend may do better, and as long as nothing went to the client it need
//! not know. What changes a server is never sent twice, an answer that has begun is final, and
//! a [`RetryBudget`] keeps retries from becoming the load that brings everything down.
//!
//! ```text
//! call ── attempt 1 ✗ ── attempt 2 (at once, elsewhere) ✗ ── wait ── attempt 3 ── head → client
//!         └ budget spent ┘                             └ budget spent ┘           (final)
//! ```
//!
//! It belongs outside of everything that is of one backend, and inside of whatever counts
//! requests. The inner service finds [`Attempts`] among the request's extensions: which attempt
//! it is, and who was asked before.
//!
//! The first retry goes elsewhere at once, later ones wait a little ([`Backoff`]). Where nobody
//! else is left, a `Retry-After` of the backend is honoured, up to a bound, or the answer is final
//! ([`RetryLayer::with_statuses_only_elsewhere`]). An answer that is
//! not passed on is read to its end if it is small, so that its connection can be used again;
//! the last one goes to the client unread, as it is.
//!
//! ```
//! use std::num::NonZeroU32;
//! use std::time::Duration;
//! use llamatower_layers::retry::{Backoff, RetryBudget, RetryLayer};
//!
//! let default = RetryLayer::new(RetryBudget::default());
//! let patient = RetryLayer::new(RetryBudget::new(0.1, 1.0))
//!     .with_attempts(NonZeroU32::new(5).expect("not zero"))
//!     .with_backoff(Backoff::new(Duration::from_millis(100), Duration::from_secs(5)))
//!     .with_observer(|event| eprintln!("{}: {:?}", event.reason, event.decision));
//! # let _ = (default, patient);
//! ```
//!
//! A client of one server, whose requests have no [`RouteMatch`](crate::RouteMatch), says itself
//! what may be sent twice:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Empty;
//! use llamatower_layers::body::ReplayBody;
//! use llamatower_layers::retry::{Attempts, RetryBudget, RetryLayer};
//! use llamatower_layers::BoxError;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! type Body = ReplayBody<Empty<Bytes>>;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let busy_at_first = service_fn(async |request: Request<Body>| {
//!     let attempts = Attempts::of(request.extensions());
//!     let status = match attempts.map_or(0, Attempts::number) {
//!         1 => StatusCode::SERVICE_UNAVAILABLE,
//!         _ => StatusCode::OK,
//!     };
//!     Ok::<_, BoxError>(Response::builder().status(status).body(Empty::<Bytes>::new())?)
//! });
//! let client = RetryLayer::new(RetryBudget::default())
//!     .with_replayable(|_, _| true)
//!     .layer(busy_at_first);
//! let body = Body::from(Bytes::from(r#"{"model":"tiny"}"#));
//! let answer = client.oneshot(Request::post("/api/chat").body(body)?).await?;
//! assert_eq!(answer.status(), StatusCode::OK);
//! # Ok(())
//! # }
//! ```

mod attempts;
mod backoff;
mod budget;
mod drain;
mod event;
mod future;
mod layer;
mod service;

#[cfg(test)]
mod tests;

pub use attempts::Attempts;
pub use backoff::Backoff;
pub use budget::RetryBudget;
pub use event::{Decision, RetryEvent};
pub use future::RetryFuture;
pub use layer::RetryLayer;
pub use service::Retry;
