//! A limit on concurrent requests, each counted to the end of its response.
//!
//! Requests beyond the limit are refused at once with [`AtCapacity`]; no request waits here.
//! tower's `ConcurrencyLimit` releases its permit at the response head, when a stream of tokens has
//! only begun; here the response body holds the [`Permit`].
//!
//! ```text
//! request   head                        last frame, error or drop
//!    |-------|----- body ... ------------|
//!    |<------------- permit ------------>|
//! ```
//!
//! Put this layer inside of layers that refuse without work (API keys, rate limits) and outside of
//! layers that buffer and queue. Its limit must exceed the sum of the limits of all inner queues;
//! otherwise those queues never fill.
//!
//! ```
//! use std::num::NonZeroUsize;
//!
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::admission::{AdmissionLayer, AtCapacity};
//! use llamatower_layers::{BoxError, Failure};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let layer = AdmissionLayer::new(NonZeroUsize::MIN);
//! let service = layer.layer(service_fn(async |_: Request<()>| {
//!     Ok::<_, BoxError>(Response::new(Full::<bytes::Bytes>::from("some text")))
//! }));
//!
//! let answer = service.clone().oneshot(Request::default()).await?;
//! assert_eq!(layer.in_flight(), 1);
//! let refusal = service.oneshot(Request::default()).await.unwrap_err();
//! assert!(Failure::find(&*refusal).unwrap().caused_by::<AtCapacity>().is_some());
//!
//! answer.into_body().collect().await?;
//! assert_eq!(layer.in_flight(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! A clone of the layer can read the count, for example for a metric:
//!
//! ```
//! # use std::num::NonZeroUsize;
//! # use llamatower_layers::admission::AdmissionLayer;
//! let layer = AdmissionLayer::new(NonZeroUsize::new(4096).unwrap());
//! let gauge = layer.clone();
//! let read = move || gauge.in_flight() as u64;
//! assert_eq!(read(), 0);
//! ```

mod error;
mod future;
mod layer;
mod permit;
mod service;
#[cfg(test)]
mod tests;

pub use error::AtCapacity;
pub use future::AdmissionFuture;
pub use layer::AdmissionLayer;
pub use permit::Permit;
pub use service::AdmissionService;
