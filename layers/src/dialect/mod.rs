//! The dialects of LLM servers, and their error formats.
//!
//! An error must have the format that the client's library expects, so that it raises its own
//! exception and not a parse error. [`Dialect::error_response`] is for errors before a response has
//! begun, [`Dialect::error_frame`] for errors in the middle of a stream.

#[cfg(feature = "rescue")]
mod error;
#[cfg(feature = "rescue")]
mod response;

#[cfg(feature = "rescue")]
pub use error::ErrorText;
#[cfg(feature = "rescue")]
pub use response::ResponseSoFar;

/// A family of request and response formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Ollama's own `/api` routes: JSON and NDJSON, errors as `{"error":".."}`.
    Ollama,
    /// OpenAI's completions, embeddings and models: JSON, and SSE that ends with `[DONE]`.
    OpenAi,
    /// OpenAI's responses: JSON, and SSE with named events and without `[DONE]`.
    Responses,
    /// Anthropic's messages: JSON, and SSE with named events and without `[DONE]`.
    Anthropic,
    /// Plain text, for paths outside of any dialect.
    Text,
}

impl Dialect {
    /// The dialect that a path's beginning suggests, for errors without a known route.
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
