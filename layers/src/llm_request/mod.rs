//! Extracts what the gateway needs from a request's body, in one pass over its bytes.
//!
//! [`LlmRequestLayer`] scans the body that [`BodyLimitLayer`](crate::body_limit::BodyLimitLayer)
//! has buffered, and stores an [`LlmRequest`] in the request: the model, whether the response
//! streams, how long the model stays in memory. The bytes are not changed, except that a missing
//! `model` can be filled in.
//!
//! ```text
//!  head  body..........|scan| inner service
//! ```
//!
//! Place it directly inside of the body limit, and outside of everything that depends on the model.
//! A body that is not JSON, or that two parsers could understand differently, is refused here and
//! never reaches a backend. Short bodies are scanned within the call. The rest of long bodies,
//! compressed bodies and forms are scanned in slices, so that other requests can run in between.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use llamatower_layers::body::{MemoryBudget, ReplayBody};
//! use llamatower_layers::body_limit::BodyLimitLayer;
//! use llamatower_layers::endpoint::EndpointLayer;
//! use llamatower_layers::llm_request::LlmRequestLayer;
//! use llamatower_layers::{BoxError, EndpointTable, LlmRequest};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(EndpointLayer::new(EndpointTable::ollama()))
//!     .layer(BodyLimitLayer::new(MemoryBudget::new(1 << 30)))
//!     .layer(LlmRequestLayer::new().with_default_model(Some("llama3".into())))
//!     .service(service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async move {
//!         let model = LlmRequest::of(request.extensions()).and_then(|llm| llm.model.clone());
//!         Ok::<_, BoxError>(Response::new(model))
//!     }));
//! let request = Request::post("/api/chat").body(Full::from(r#"{"messages":[]}"#))?;
//! assert_eq!(service.oneshot(request).await?.into_body().as_deref(), Some("llama3"));
//! # Ok(())
//! # }
//! ```

mod edit;
mod encoding;
mod error;
mod form;
mod future;
mod layer;
mod model_name;
mod needs;
mod output;
mod plan;
pub mod scan;
mod service;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::Extensions;

use crate::shared::Shared;
use crate::{Dialect, Operation};

pub use edit::{BodyEdits, EditPlaces};
pub use error::{MalformedBody, UnsupportedEncoding};
pub use future::LlmRequestFuture;
pub use layer::LlmRequestLayer;
pub use model_name::{InvalidModelName, ModelName, ModelSource};
pub use needs::Needs;
pub use output::LimitedOutput;
pub use scan::PromptPrefix;
pub use service::LlmRequestService;

/// What a request asks of a model; stored in the request's extensions after its body was scanned
/// ([`LlmRequest::of`]).
#[derive(Clone, Debug, PartialEq)]
pub struct LlmRequest {
    /// The request's dialect.
    pub dialect: Dialect,
    /// The requested operation.
    pub operation: Operation,
    /// The model's name as written by the client (`model`, or `name` where Ollama accepts that).
    pub model: Option<Arc<str>>,
    /// Whether the response will be a stream, including the endpoint's default.
    pub stream: bool,
    /// How long the model should stay in memory, if set.
    pub keep_alive: Option<KeepAlive>,
    /// The context length in tokens (`options.num_ctx`), at most 2^31 - 1; `None` if it is not set
    /// or below 4, Ollama's smallest one ([`EditPlaces::corrects_num_ctx`]).
    pub num_ctx: Option<u64>,
    /// Whether the prompt or the list of messages is missing or empty. This is a request to load
    /// the model or, with a `keep_alive` of zero, to unload it.
    pub has_no_prompt: bool,
    /// What the request needs of its model beside text, as far as its body shows it.
    pub needs: Needs,
    /// The body's length in bytes.
    pub body_bytes: u64,
    /// The length of the client's body in bytes for an estimate of its tokens: without compression, and images, audio and
    /// files count as at most 16 KiB together, because they are fewer tokens than text of their size.
    pub prompt_bytes: u64,
    /// How the prompt begins; empty without [`LlmRequestLayer::with_prefix_blocks`].
    pub prefix: PromptPrefix,
    /// Where the values stand that [`BodyEdits`] can change.
    pub places: EditPlaces,
}

impl LlmRequest {
    /// The result for the request with these extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Shared::of(extensions)?.llm.as_ref()
    }

    pub(crate) fn of_mut(extensions: &mut Extensions) -> Option<&mut Self> {
        Shared::of_mut(extensions).llm.as_mut()
    }

    /// Stores this in the extensions, as the layer does.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).llm = Some(self);
    }
}

/// How long a model stays in memory after the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until it is unloaded or evicted: any negative value.
    Forever,
    /// For this time; zero unloads it.
    For(std::time::Duration),
    /// A value that only the backend can judge, such as a misspelt duration.
    Unclear,
}

impl From<std::time::Duration> for KeepAlive {
    fn from(time: std::time::Duration) -> Self {
        Self::For(time)
    }
}
