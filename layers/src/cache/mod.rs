//! A cache for deterministic responses: exact matches only, off by default.
//!
//! The same model gives the same embedding for the same text. A chat answer is deterministic if the
//! request sets temperature 0, or a seed other than -1. [`CacheLayer`] keeps such answers in memory, limited in
//! bytes. Equal requests share one exchange: while a response is in progress, a second equal request
//! receives it as it arrives.
//!
//! ```text
//! first   ── miss ── backend ── head ── frame ── frame ── end ── cached
//! equal   ── miss ── collapsed ── head ── frame ── frame ── end
//! later                                                          └ hit: the same frames, at once
//! ```
//!
//! - The key is made of the model's **version** (for example its digest, which the caller gives),
//!   the route, the tenant and the canonical request: its members and those of `options` sorted, without
//!   `keep_alive`, which does not change the response. Other values count as they are written, because
//!   the order of a schema's properties changes the response. Without a version nothing is cached.
//! - Only complete answers are cached: status 200, complete by the
//!   [`EndRule`](crate::frames::EndRule) of their stream, and not too large. A stream is replayed
//!   as a stream.
//! - A request that leaves does not cancel the others. The exchange is driven by the participant
//!   that is polled, and is cancelled when the last one is dropped; no task is spawned. If it
//!   fails, it fails for all. The usage of a shared exchange is reported by one request: the first, or
//!   the next one if that leaves before the end.
//! - The layer obeys `Cache-Control: no-store` and `no-cache` of a request. Answers carry the
//!   result in `Cache-Status` (RFC 9211).
//!
//! All tenants share the limit of bytes. A tenant with many requests can evict answers that others
//! have not used recently, but never gets the responses of others.
//!
//! Put it inside of [`BodyLimitLayer`](crate::body_limit::BodyLimitLayer) and
//! [`LlmRequestLayer`](crate::llm_request::LlmRequestLayer), because it reads the buffered body,
//! and outside of token limits and retries, because a hit uses no tokens. tower and tower-http have
//! no cache.
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
//! Separate for each tenant, for one hour:
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

#[cfg(test)]
mod begin_tests;
mod body;
mod flight;
mod future;
mod key;
mod layer;
mod reporters;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use body::CacheBody;
pub use flight::SharedFailure;
pub use future::CacheFuture;
pub use layer::{CacheCounts, CacheLayer};
pub use service::CacheService;
