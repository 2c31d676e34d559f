//! The gateway's own answer to a request for a model that no server may serve.

use http::StatusCode;
use llamatower_layers::{Fail, Side};

/// No server has the model. The text is Ollama's, which differs between its routes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ModelNotFound {
    text: Box<str>,
}

impl ModelNotFound {
    /// For a model's name as the client wrote it.
    pub fn new(model: &str) -> Self {
        Self {
            text: format!("model '{model}' not found").into(),
        }
    }

    /// The same, for a request of `/api/embed` or `/api/embeddings`.
    pub fn to_embed(model: &str) -> Self {
        Self {
            text: format!("model \"{model}\" not found, try pulling it first").into(),
        }
    }
}

impl Fail for ModelNotFound {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::NOT_FOUND
    }
    fn kind(&self) -> &'static str {
        "model_not_found"
    }
}
