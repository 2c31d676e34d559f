//! Gives errors of other crates a meaning: which side failed, whether to retry, what the client
//! sees.
//!
//! The layers of this crate fail with a [`Failure`](crate::Failure), which carries its meaning. The
//! client inside of them does not: `Connection refused` is a `hyper_util::client::legacy::Error` or
//! a `reqwest::Error`. [`RetryLayer`](crate::retry), [`RescueLayer`](crate::rescue),
//! [`BreakerLayer`](crate::breaker) and [`AdaptiveLayer`](crate::adaptive) therefore call
//! [`classify`] for each error that is no `Failure`:
//!
//! | Error | [`Class`] | Status | Retried |
//! |---|---|---|---|
//! | a connection was refused, a name has no address, TLS failed | [`CONNECT_FAILED`](Class::CONNECT_FAILED) | 502 | yes |
//! | no connection in time | [`CONNECT_TIMEOUT`](Class::CONNECT_TIMEOUT) | 504 | yes |
//! | a time-out of the client, tokio's `Elapsed`, `io::ErrorKind::TimedOut` | [`TIMEOUT`](Class::TIMEOUT) | 504 | once |
//! | the connection ended or was reset | [`CONNECTION_LOST`](Class::CONNECTION_LOST) | 502 | yes |
//! | a response that is not HTTP, a redirect loop | [`INVALID_ANSWER`](Class::INVALID_ANSWER) | 502 | no |
//! | the client refuses the request: no host, a wrong URL | [`INVALID_REQUEST`](Class::INVALID_REQUEST) | 500 | no |
//! | the body of the request failed | [`CLIENT_BODY_FAILED`](Class::CLIENT_BODY_FAILED) | 400 | no |
//!
//! "Yes" means a request that may be sent twice, and before the head of a response. `io::Error` is
//! always known. The feature `hyper-util` adds the errors of hyper and of hyper-util's client, the
//! feature `reqwest` those of hyper and reqwest. An `io::Error` and a `hyper::Error` count as the
//! backend's: a service that itself reads the body of a request, or uses a file or a database, returns
//! an error of its own when that fails, as [`BodyLimitLayer`](crate::body_limit) does.
//!
//! The client of the gateway sees what happened and the deepest cause, never the URL:
//! `cannot connect to the backend: Connection refused (os error 111)`.
//!
//! # Other errors
//!
//! An error of an unknown kind is not retried, counts for the breaker, and becomes `500 internal
//! error` without details. The observer of retries hears of it
//! ([`Decision::Unclassified`](crate::retry::Decision)). [`ClassifyLayer`] around the client gives
//! such errors a meaning, once for all layers outside of it:
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Empty;
//! use llamatower_layers::classify::{Class, ClassifyLayer};
//! use llamatower_layers::{BoxError, Failure, Retryable, Side};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! #[derive(Debug)]
//! struct PoolExhausted;
//! # impl std::fmt::Display for PoolExhausted {
//! #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("exhausted") }
//! # }
//! impl std::error::Error for PoolExhausted {}
//!
//! const BUSY: Class = Class::new(
//!     Side::Gateway,
//!     StatusCode::SERVICE_UNAVAILABLE,
//!     "pool_exhausted",
//!     "all connections are in use",
//! )
//! .with_retryable(Retryable::Yes);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let client = ServiceBuilder::new()
//!     .layer(ClassifyLayer::new(|error| match error {
//!         error if error.is::<PoolExhausted>() => Some(BUSY),
//!         // tower's time-out.
//!         error if error.is::<tower::timeout::error::Elapsed>() => Some(Class::TIMEOUT),
//!         _ => None,
//!     }))
//!     .service(service_fn(async |_: Request<()>| {
//!         Err::<Response<Empty<&[u8]>>, _>(BoxError::from(PoolExhausted))
//!     }));
//! let error = client.oneshot(Request::default()).await.unwrap_err();
//! let failure = Failure::find(&*error).expect("it is classified");
//! assert_eq!(failure.kind(), "pool_exhausted");
//! assert_eq!(failure.to_string(), "all connections are in use");
//! # }
//! ```

mod body;
mod class;
mod future;
mod known;
mod layer;
#[cfg(test)]
mod tests;

pub use body::ClassifyBody;
pub use class::{Class, ClassifiedError};
pub use future::ClassifyFuture;
pub use known::classify;
pub use layer::{ClassifyLayer, ClassifyService};
