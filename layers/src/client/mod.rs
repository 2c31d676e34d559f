//! reqwest's client as a service for `http` requests.
//!
//! hyper-util's client is such a service itself. reqwest's has its own request type, and accepts
//! only bodies that are `Sync`, which axum's is not. Its client uses the proxy of the environment
//! (`HTTP_PROXY`) unless it is built with `no_proxy`.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use llamatower_layers::classify::Class;
//! use llamatower_layers::client::ReqwestService;
//! use llamatower_layers::retry::{RetryBudget, RetryLayer};
//! use llamatower_layers::{BoxError, Failure};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let client = ServiceBuilder::new()
//!     .layer(RetryLayer::new(RetryBudget::default()))
//!     .service(ReqwestService::new(reqwest::Client::builder().no_proxy().build()?));
//! // The server must be running; port 1 refuses each of the three attempts.
//! let request = http::Request::get("http://127.0.0.1:1/").body(Full::<Bytes>::default())?;
//! let error = client.oneshot(request).await.unwrap_err();
//! assert_eq!(Failure::find(&*error).unwrap().kind(), Class::CONNECT_FAILED.kind());
//! # Ok(())
//! # }
//! ```

mod request_body;
mod reqwest_service;
#[cfg(test)]
mod tests;

pub use reqwest_service::{ReqwestFuture, ReqwestService};
