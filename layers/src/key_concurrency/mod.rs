//! A limit on the concurrent requests of each key; further ones wait for their turn.
//!
//! A key is an API key, a tenant or an address. A client that sends many requests at a time, like a
//! coding agent, then occupies only some of the slots of a service, and gets no errors for it. Each
//! request counts from its turn to the end of its response. The waiting requests of a key are served
//! in the order of their arrival.
//!
//! ```text
//! first request    |--- head ---- body ---|
//! second request        waits ············|--- head ---- body ---|
//! other key              |--- head ---- body ---|
//! ```
//!
//! A request is refused with [`KeyConcurrencyReached`] (429) if too many of its key wait already
//! ([`with_max_waiting`](KeyConcurrencyLayer::with_max_waiting)), or if it has waited for too long
//! ([`with_max_wait`](KeyConcurrencyLayer::with_max_wait)).
//!
//! Put the layer outside of the queue for the slots, so that requests which wait for their key do not
//! stand there before others, and outside of retries, so that a request has one turn for all of its
//! attempts. [`AdmissionLayer`](crate::admission::AdmissionLayer) limits all requests together.
//!
//! ```
//! use std::num::NonZeroU32;
//!
//! use futures_util::FutureExt;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::BoxError;
//! use llamatower_layers::key_concurrency::KeyConcurrencyLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let tenant = |request: &http::request::Parts| request.headers.get("x-tenant").cloned();
//! let layer = KeyConcurrencyLayer::per_key(NonZeroU32::MIN, tenant);
//! let service = layer.layer(service_fn(async |_: Request<()>| {
//!     Ok::<_, BoxError>(Response::new(Full::<bytes::Bytes>::from("some text")))
//! }));
//! let request = || Request::builder().header("x-tenant", "ada").body(());
//!
//! let first = service.clone().oneshot(request()?).await?;
//! let mut second = Box::pin(service.oneshot(request()?));
//! assert!((&mut second).now_or_never().is_none(), "it waits");
//! first.into_body().collect().await?;
//! second.await?;
//! # Ok(())
//! # }
//! ```

mod counts;
mod error;
mod future;
mod layer;
mod limits;
mod service;
mod taking;
#[cfg(test)]
mod tests;
mod wait;

pub use counts::{KeyConcurrency, Turn};
pub use error::KeyConcurrencyReached;
pub use future::KeyConcurrencyFuture;
pub use layer::KeyConcurrencyLayer;
pub use limits::{ConcurrencyLimits, KeyLimits, SameForAll};
pub use service::KeyConcurrencyService;
