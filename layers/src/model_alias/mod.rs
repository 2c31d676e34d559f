//! Names that stand for models, and other models for when one cannot answer.
//!
//! A client asks for `gpt-4o-mini`, because its editor is set so; [`ModelAliasLayer`] sends the
//! request with the model that the name stands for, and the response names what the client asked
//! for. An alias of several models is a chain: the next is tried if one is missing, too busy or
//! failing, before the client has received a byte.
//!
//! ```text
//! "gpt-4o-mini" ── first model ✗ (404, 429, 5xx) ── second model ── head → client: "gpt-4o-mini"
//!                  └ nothing is held ┘                               (final)
//! ```
//!
//! - Only the bytes of the name are replaced: in the request at the place that the scan has found,
//!   in the response as it passes, in all dialects and in streams of any framing. Requests whose model
//!   is no alias are neither copied nor changed.
//! - A model can have a **weight** ([`AliasChoice::Weighted`]); a client gets the same model each
//!   time. With [`KnownModels`] an alias can prefer what is in memory or could answer soonest, a
//!   model whose servers are down is tried last, and one that lacks a capability which the request
//!   needs is left out.
//! - If no model can answer, the client gets the first failure that may pass (busy, failing). If all
//!   are missing, it gets 404 with the alias and its models.
//! - The declared length of a response is corrected. If the model is not within its first 64 KiB, as
//!   with many embeddings in OpenAI's dialect, the response is sent without a length.
//!
//! A body that is compressed or a form is not changed, and its server does not know the alias.
//! Requests that manage models are not changed either: an alias is no model to delete.
//!
//! Put it inside of [`LlmRequestLayer`](crate::llm_request::LlmRequestLayer), which finds the name,
//! and outside of [`RetryLayer`](crate::retry::RetryLayer), so that each model gets its retries. tower
//! and tower-http have nothing like it.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::body::{MemoryBudget, ReplayBody};
//! use llamatower_layers::body_limit::BodyLimitLayer;
//! use llamatower_layers::endpoint::EndpointLayer;
//! use llamatower_layers::llm_request::LlmRequestLayer;
//! use llamatower_layers::model_alias::{Alias, Aliases, ModelAliasLayer};
//! use llamatower_layers::{BoxError, EndpointTable};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let aliases = Aliases::new([Alias::chain("gpt-4o-mini", ["qwen2.5-coder:7b", "llama3.2:3b"])?])?;
//! let service = ServiceBuilder::new()
//!     .layer(EndpointLayer::new(EndpointTable::ollama()))
//!     .layer(BodyLimitLayer::new(MemoryBudget::new(1 << 30)))
//!     .layer(LlmRequestLayer::new())
//!     .layer(ModelAliasLayer::new(aliases))
//!     .service(service_fn(async |request: Request<ReplayBody<Full<Bytes>>>| {
//!         let body = request.into_body().collect().await?.to_bytes();
//!         assert_eq!(body, r#"{"model":"qwen2.5-coder:7b","messages":[]}"#);
//!         let answer = Response::builder().header("content-type", "application/json");
//!         let body = r#"{"model":"qwen2.5-coder:7b","done":true}"#;
//!         Ok::<_, BoxError>(answer.body(Full::<Bytes>::from(body))?)
//!     }));
//! let body = Full::from(r#"{"model":"gpt-4o-mini","messages":[]}"#);
//! let answer = service.oneshot(Request::post("/api/chat").body(body)?).await?;
//! let answer = answer.into_body().collect().await?.to_bytes();
//! assert_eq!(answer, r#"{"model":"gpt-4o-mini","done":true}"#);
//! # Ok(())
//! # }
//! ```
//!
//! One client of ten tries another model, aliases that can be changed later, and a header that names
//! the model:
//!
//! ```
//! use std::num::NonZeroU32;
//! use std::sync::Arc;
//!
//! use http::HeaderName;
//! use llamatower_layers::ClientAddress;
//! use llamatower_layers::live::Live;
//! use llamatower_layers::model_alias::{
//!     Alias, AliasChoice, AliasTarget, Aliases, ModelAliasLayer,
//! };
//!
//! let nine = NonZeroU32::new(9).expect("not zero");
//! let models = [
//!     AliasTarget::new("qwen2.5:7b")?.with_weight(nine),
//!     AliasTarget::new("qwen3:8b")?,
//! ];
//! let aliases = Live::new(Aliases::new([Alias::new("chat", models, AliasChoice::Weighted)?])?);
//! let layer = ModelAliasLayer::new(aliases.clone())
//!     .with_client(|request| {
//!         let address = ClientAddress::of(&request.extensions)?;
//!         Some(Arc::from(address.0.to_string()))
//!     })
//!     .with_header(HeaderName::from_static("x-model"));
//! aliases.set(Aliases::new([Alias::chain("chat", ["qwen3:8b"])?])?);
//! # let _ = layer;
//! # Ok::<_, llamatower_layers::model_alias::AliasError>(())
//! ```

mod aliases;
mod attempts;
mod body;
mod error;
mod future;
mod known;
mod layer;
mod rewrite;
mod service;
#[cfg(test)]
mod tests;

pub use crate::llm_request::Needs;
pub use aliases::{Alias, AliasChoice, AliasTarget, Aliases, Candidate};
pub use body::ModelAliasBody;
pub use error::{AliasError, AliasNotFound, NoCapableModel};
pub use future::ModelAliasFuture;
pub use known::{Asked, ExpectedTime, KnownModels};
pub use layer::{Fallback, ModelAliasLayer};
pub use service::ModelAliasService;
