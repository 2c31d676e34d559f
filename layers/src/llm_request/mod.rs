//! What the gateway needs to know of a request's body, found in one pass over its bytes.

pub mod scan;

use std::sync::Arc;

use crate::{Dialect, Operation};

/// What a request asks of a model; an extension of the request once its body was read.
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
