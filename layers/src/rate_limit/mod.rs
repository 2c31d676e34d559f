//! Rate limits, for all requests and for each key.
//!
//! Requests without a key are limited too: all of them share one quota of the same size. They can pass
//! or be refused instead ([`RateLimitLayer::without_key`]).
//!
//! Each request takes one unit from its bucket, and is refused at once with [`RateLimited`] if the
//! bucket is empty; requests never wait here. Responses of the inner service and refusals report the remaining quota in
//! the headers `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10);
//! refusals also have `Retry-After`; errors of inner layers have neither. The buckets are governor's. They use tokio's clock, so a test
//! can pause it.
//!
//! ```text
//! requests  x x x     x x           x
//! bucket    3 2 1 0   1 0   1  2  3 3
//!                 ^ refused      ^ full, so dropped some time later
//! ```
//!
//! Quotas can be replaced while requests are served ([`RateLimitLayer::set_quotas`]).
//!
//! Place it directly inside of authentication, and outside of all layers that read bodies. tower's
//! `RateLimit` makes callers wait, has no keys and is not `Clone`.
//!
//! One quota for all requests:
//!
//! ```
//! use std::num::NonZeroU32;
//!
//! use http::{Request, Response};
//! use llamatower_layers::rate_limit::{Quota, RateLimitLayer, RateLimited};
//! use llamatower_layers::{BoxError, Failure};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let layer = RateLimitLayer::global(Quota::per_minute(NonZeroU32::MIN));
//! let service = layer.layer(service_fn(async |_: Request<()>| {
//!     Ok::<_, BoxError>(Response::new(()))
//! }));
//!
//! let answer = service.clone().oneshot(Request::default()).await?;
//! assert_eq!(answer.headers()["ratelimit-policy"], r#""global";q=1;w=60"#);
//! assert_eq!(answer.headers()["ratelimit"], r#""global";r=0;t=60"#);
//!
//! let refusal = service.oneshot(Request::default()).await.unwrap_err();
//! assert!(Failure::find(&*refusal).unwrap().caused_by::<RateLimited>().is_some());
//! # Ok(())
//! # }
//! ```
//!
//! Ten requests in five seconds for each value of a header, at most three at once:
//!
//! ```
//! use std::num::{NonZeroU32, NonZeroUsize};
//! use std::time::Duration;
//!
//! use http::request::Parts;
//! use llamatower_layers::rate_limit::{InvalidQuota, Quota, RateLimitLayer};
//!
//! # fn main() -> Result<(), InvalidQuota> {
//! let quota = Quota::new(NonZeroU32::new(10).unwrap(), Duration::from_secs(5))?
//!     .with_burst(NonZeroU32::new(3).unwrap())?;
//! let layer = RateLimitLayer::per_key(quota, |request: &Parts| {
//!     request.headers.get("x-tenant").cloned()
//! })
//! .with_max_keys(NonZeroUsize::new(500).unwrap());
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```

mod buckets;
mod clock;
mod error;
mod future;
mod layer;
mod quota;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use error::{RateLimited, Scope};
pub use future::RateLimitFuture;
pub use layer::RateLimitLayer;
pub use quota::{InvalidQuota, Quota};
pub use service::RateLimitService;
pub use store::{MemoryBuckets, RateStore, TakeResult};
