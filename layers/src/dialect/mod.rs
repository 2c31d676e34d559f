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

impl Dialect {
    /// The dialect that the beginning of a path suggests, for refusals that no route is known for.
    ///
    /// ```
    /// use llamatower_layers::Dialect;
    ///
    /// assert_eq!(Dialect::of_path("/api/chat"), Dialect::Ollama);
    /// assert_eq!(Dialect::of_path("/v1/messages"), Dialect::Anthropic);
    /// assert_eq!(Dialect::of_path("/v1/chat/completions"), Dialect::OpenAi);
    /// assert_eq!(Dialect::of_path("/"), Dialect::Text);
    /// ```
    pub fn of_path(path: &str) -> Self {
        let is_at = |prefix: &str| {
            let rest = path.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match path {
            _ if is_at("/api") => Self::Ollama,
            _ if is_at("/v1/messages") => Self::Anthropic,
            _ if is_at("/v1/responses") => Self::Responses,
            _ if is_at("/v1") => Self::OpenAi,
            _ => Self::Text,
        }
    }
}
