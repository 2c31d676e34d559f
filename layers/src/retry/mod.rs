//! Retries a request as long as the client has not received a byte.
//!
//! If a connection is refused, or a server is too busy to load a model or does not respond, another
//! backend may succeed, and the client does not notice. A request that changes a server is never
//! sent twice, and a response that has begun is final. A [`RetryBudget`] prevents retries from
//! overloading the backends.
//!
//! ```text
//! call ── attempt 1 ✗ ── attempt 2 (at once, elsewhere) ✗ ── wait ── attempt 3 ── head → client
//!         └ budget spent ┘                             └ budget spent ┘           (final)
//! ```
//!
//! Place it outside of everything that belongs to one backend, and inside of everything that counts
//! requests. The inner service finds [`Attempts`] in the request's extensions, with the number of
//! the attempt and the backends that were tried before.
//!
//! An attempt has failed if its response has a listed status ([`RetryLayer::with_statuses`]), or if its
//! error may be retried: a [`Failure`](crate::Failure) tells it, and [`classify`](crate::classify)
//! knows the errors of `std::io`, and with the features `hyper-util` and `reqwest` those of these
//! clients. An error of another kind is final; a
//! [`ClassifyLayer`](crate::classify::ClassifyLayer) inside can give it a meaning. An error of
//! [`Retryable::Elsewhere`](crate::Retryable), such as an open circuit breaker's, is final at once if
//! there is no other backend.
//!
//! The request is sent again only if it may be sent twice and its body can be
//! ([`Replay`](crate::Replay)). By default the route of an
//! [`EndpointLayer`](crate::endpoint::EndpointLayer) outside of this one tells whether it may. **A POST
//! without a route is not retried**, because only the caller knows what it does; see
//! [`RetryLayer::with_replayable`]. A debug build logs a warning when
//! this happens, when the path is not in the table, and for an error of an unknown kind. The observer
//! ([`RetryLayer::with_observer`]) hears the reason for each attempt that is not repeated.
//! [`RetryOptions`] in a request's extensions decide for that request.
//!
//! The first retry uses another backend at once; later ones back off ([`Backoff`]). If no other
//! backend is left, a backend's `Retry-After` is waited for, up to a limit, or the response is
//! final ([`RetryLayer::with_statuses_only_elsewhere`]). A response that is replaced by a retry is
//! read to its end if it is small, so that its connection can be reused. The last response goes to
//! the client unread.
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
//! A client of a single server, whose requests have no [`RouteMatch`](crate::RouteMatch), sets
//! which requests may be sent twice:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::{Empty, Full};
//! use llamatower_layers::retry::{Attempts, RetryBudget, RetryLayer};
//! use llamatower_layers::BoxError;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! type Body = Full<Bytes>;
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
mod options;
mod service;

#[cfg(test)]
mod tests;

pub use attempts::Attempts;
pub use backoff::Backoff;
pub use budget::RetryBudget;
pub use event::{Decision, RetryEvent};
pub use future::RetryFuture;
pub use layer::RetryLayer;
pub use options::RetryOptions;
pub use service::RetryService;
