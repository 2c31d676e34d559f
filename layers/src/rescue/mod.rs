//! Errors become answers, broken streams get their error frame.
//!
//! The one place where a failure is put into words: an error becomes an answer in the dialect
//! of its route, and a stream that breaks off is ended so that its client can tell. Outside of
//! it nothing fails.
//!
//! ```text
//! call ── error ──▶ an answer with its status, Retry-After, Allow
//! call ── head ── frames ── breaks off between two items ──▶ an error frame, a clean end
//!                        └─ breaks off inside an item ─────▶ an unclean end
//! ```
//!
//! A native stream that ends without `done:true` or an error line is broken too, and so is an
//! event stream without the event that ends it: Ollama loses errors on its `/v1` routes.
//!
//! It belongs inside of what must see every final status (spans, records), outside of
//! everything that can fail.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Empty;
//! use llamatower_layers::{BoxError, Failure, endpoint::NotFound, rescue::RescueLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(RescueLayer::new())
//!     .service(service_fn(|_: Request<()>| async {
//!         Err::<Response<Empty<bytes::Bytes>>, BoxError>(Failure::from(NotFound).into())
//!     }));
//! let Ok(answer) = service.oneshot(Request::new(())).await;
//! assert_eq!(answer.status(), StatusCode::NOT_FOUND);
//! # }
//! ```

mod body;
mod future;
mod layer;
mod service;

#[cfg(test)]
mod tests;

pub use body::{RescueBody, Unfinished};
pub use future::RescueFuture;
pub use layer::RescueLayer;
pub use service::Rescue;
