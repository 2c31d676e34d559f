//! A hard cap on requests in flight, held to the end of the answer.
//!
//! What exceeds the cap is refused at once with [`AtCapacity`]: nothing waits here. tower's
//! `ConcurrencyLimit` gives its permit back at the head of the answer, when a stream of tokens
//! has only begun; here the [`Permit`] rides the response body.
//!
//! ```text
//! request   head                        last frame, error or drop
//!    |-------|----- body ... ------------|
//!    |<------------- permit ------------>|
//! ```
//!
//! In a stack it belongs inside of what refuses cheaply (keys, rates) and outside of what
//! buffers and queues. Its cap must exceed the bounds of all queues inside together, or those
//! never fill.
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
//! The count can be watched, for a metric say, by a clone of the layer:
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
pub use future::ResponseFuture;
pub use layer::AdmissionLayer;
pub use permit::Permit;
pub use service::AdmissionService;
