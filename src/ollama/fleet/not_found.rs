//! The gateway's own answer to a request for a model that no server may serve.

use http::StatusCode;
use llamatower_layers::{Fail, Side};

/// No server has the model. The text is Ollama's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model '{model}' not found")]
pub struct ModelNotFound {
    model: Box<str>,
}

impl ModelNotFound {
    /// For a model's name as the client wrote it.
    pub fn new(model: &str) -> Self {
        Self {
            model: model.into(),
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
