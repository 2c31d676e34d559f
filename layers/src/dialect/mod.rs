//! The dialects of LLM servers, and how each says that something failed.
//!
//! What a client sees of a failure must have the shape that its library knows: an exception of
//! its own instead of a parse error. [`Dialect::error_response`] tells a failure before an answer
//! has begun, [`Dialect::error_frame`] in the middle of a stream.

#[cfg(feature = "rescue")]
mod error;
#[cfg(feature = "rescue")]
mod response;

#[cfg(feature = "rescue")]
pub use error::ErrorText;
#[cfg(feature = "rescue")]
pub use response::ResponseSoFar;

/// The family of request and answer shapes that an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Ollama's own `/api` routes: JSON and NDJSON, errors as `{"error":".."}`.
    Ollama,
    /// OpenAI's completions, embeddings and models: JSON and SSE that ends in `[DONE]`.
    OpenAi,
    /// OpenAI's responses: JSON and SSE with named events, no `[DONE]`.
    Responses,
    /// Anthropic's messages: JSON and SSE with named events, no `[DONE]`.
    Anthropic,
    /// Plain text, for paths that belong to no dialect.
    Text,
}
