//! Answers that need not be computed twice: exact matches, off unless asked for.
//!
//! An embedding of the same text by the same model is the same, and so is an answer whose request
//! is deterministic by its own words: temperature 0, or a seed. [`CacheLayer`] keeps these answers in
//! memory, within a bound of bytes, and lets twins share one: while an answer is under way, whoever
//! asks the same gets it as it comes.
//!
//! ```text
//! first   ── miss ── backend ── head ── frame ── frame ── end ── kept
//! twin        └ collapsed ───── head ── frame ── frame ── end
//! later                                                          └ hit: the same frames, at once
//! ```
//!
//! - The key is the model's **version** (its digest, which the caller knows), the route, the
//!   tenant and the canonical request: members in order, `keep_alive` left out, which changes no
//!   answer. Without a version nothing is kept.
//! - Only whole answers are kept: 200, finished by the [`EndRule`](crate::frames::EndRule) of
//!   their stream, and not too large. A stream is replayed as a stream.
//! - No twin cancels the others. The exchange is driven by whoever polls, and is dropped when the
//!   last has left; no task is spawned. If it fails, it fails for all of them.
//! - `Cache-Control: no-store` or `no-cache` of a request is obeyed. Answers say what was done in
//!   `Cache-Status` (RFC 9211).
//!
//! All tenants share the bound of bytes: one that asks a lot pushes out what others have not asked
//! for of late, but never sees what is theirs.
//!
//! It belongs inside of [`BodyLimitLayer`](crate::body_limit::BodyLimitLayer) and
//! [`LlmRequestLayer`](crate::llm_request::LlmRequestLayer), since it reads the buffered body, and outside
//! of token limits and retries: a hit costs nothing. tower and tower-http have no cache.
//!
//! ```
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::body::ReplayBody;
//! use llamatower_layers::cache::CacheLayer;
//! use llamatower_layers::endpoint::EndpointLayer;
//! use llamatower_layers::{BoxError, EndpointTable};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(EndpointLayer::new(EndpointTable::ollama()))
//!     .layer(CacheLayer::new(64 << 20, |_| Some(Arc::from("sha256:5cec40c0"))))
//!     .service(service_fn(async |_: Request<ReplayBody<Full<Bytes>>>| {
//!         let answer = Response::builder().header("content-type", "application/json");
//!         Ok::<_, BoxError>(answer.body(Full::<Bytes>::from(r#"{"embeddings":[[0.1]]}"#))?)
//!     }));
//! for expected in ["llamatower; fwd=miss", "llamatower; hit"] {
//!     let body = ReplayBody::from(Bytes::from(r#"{"model":"nomic","input":"a tower"}"#));
//!     let answer = service.clone().oneshot(Request::post("/api/embed").body(body)?).await?;
//!     assert_eq!(answer.headers()["cache-status"], expected);
//!     answer.into_body().collect().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Apart for each tenant, for an hour:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use http::request::Parts;
//! use llamatower_layers::cache::CacheLayer;
//!
//! let layer = CacheLayer::new(1 << 30, |_: &Parts| Some(Arc::from("v1")))
//!     .with_tenant(|request: &Parts| {
//!         let tenant = request.headers.get("x-tenant")?.to_str().ok()?;
//!         Some(Arc::from(tenant))
//!     })
//!     .with_time_to_live(Duration::from_secs(3600))
//!     .with_max_answer(1 << 20);
//! # let _ = layer;
//! ```

mod body;
mod flight;
mod future;
mod key;
mod layer;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use body::CacheBody;
pub use flight::SharedFailure;
pub use future::CacheFuture;
pub use layer::CacheLayer;
pub use service::CacheService;
