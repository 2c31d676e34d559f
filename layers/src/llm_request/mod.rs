//! What the gateway needs to know of a request's body, found in one pass over its bytes.
//!
//! [`LlmRequestLayer`] reads the body that [`BodyLimitLayer`](crate::body_limit::BodyLimitLayer)
//! has buffered, and notes an [`LlmRequest`] of the request: which model, stream
//! or not, how long to stay in memory. The bytes go on untouched, but for one case: a missing
//! `model` can be filled in.
//!
//! ```text
//!  head  body..........|scan| inner service
//! ```
//!
//! It belongs right inside of the body limit, and outside of all that decides by the model. A
//! body that is not JSON, or that two readers could understand in two ways, is refused here
//! and costs no backend anything. Short bodies are scanned in the call itself; the rest of
//! long ones, compressed bodies and forms in slices, so that other requests get their turn in between.
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

mod encoding;
mod error;
mod form;
mod future;
mod layer;
mod model_name;
mod plan;
pub mod scan;
mod service;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::Extensions;

use crate::shared::Shared;
use crate::{Dialect, Operation};

pub use error::{MalformedBody, UnsupportedEncoding};
pub use future::LlmRequestFuture;
pub use layer::LlmRequestLayer;
pub use model_name::{InvalidModelName, ModelName, ModelSource};
pub use service::LlmRequestService;

/// What a request asks of a model; travels with the request once its body was read
/// ([`LlmRequest::of`]).
#[derive(Clone, Debug, PartialEq)]
pub struct LlmRequest {
    /// How the request is written.
    pub dialect: Dialect,
    /// What it asks for.
    pub operation: Operation,
    /// The model's name as the client wrote it (`model`, else `name` where Ollama takes that).
    pub model: Option<Arc<str>>,
    /// Whether the answer will be a stream, the endpoint's default included.
    pub stream: bool,
    /// How long the model is to stay in memory, if the request says so.
    pub keep_alive: Option<KeepAlive>,
    /// The context length in tokens (`options.num_ctx`), if the request says so.
    pub num_ctx: Option<u64>,
    /// Whether the prompt or the list of messages is missing or empty: a request to load the
    /// model, or, with a `keep_alive` of zero, to unload it.
    pub has_no_prompt: bool,
    /// The body's length in bytes.
    pub body_bytes: u64,
}

impl LlmRequest {
    /// What was found in the body of the request with these extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Shared::of(extensions)?.llm.as_ref()
    }

    /// Notes this of the request with these extensions, as the layer does.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).llm = Some(self);
    }
}

/// How long a model is to stay in memory after the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeepAlive {
    /// Until it is unloaded or pushed out: any negative value.
    Forever,
    /// For so long; zero unloads it.
    For(std::time::Duration),
    /// Something that only the backend can judge, such as a misspelt duration.
    Unclear,
}
