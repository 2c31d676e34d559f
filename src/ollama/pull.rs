//! Answers a pull of a model that the fleet already has, for clients that may not manage models.
//!
//! Some programs pull a model before each use. For a model that is up to date Ollama answers with
//! `success`. The gateway gives the same response to a client that may not manage models, without a
//! request to a server.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use llamatower_layers::api_key::ManagementRefused;
use llamatower_layers::{BoxError, Failure, LlmRequest, ModelName};

use super::attempt::AnswerBody;
use super::fleet::Fleet;
use super::whole;
use crate::clients::model_rules::ModelRules;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Ollama's response to a pull of an up-to-date model, without the lines for the model's layers.
const NOTHING_TO_DO: &str = r#"{"status":"pulling manifest"}
{"status":"verifying sha256 digest"}
{"status":"writing manifest"}
{"status":"success"}
"#;

/// The same response without streaming.
const SUCCESS: &str = r#"{"status":"success"}"#;

/// Why the client may not pull; `None` if it may.
pub(super) fn refused<B>(request: &Request<B>) -> Option<ManagementRefused> {
    request.extensions().get().cloned()
}

/// Whether a backend has the model, or one of those that the name stands for.
async fn is_there<S>(fleet: &Fleet<S>, rules: &ModelRules, model: &str) -> bool {
    let Some(models) = rules.models_of(model) else {
        return match ModelName::parse(model) {
            Ok(model) => fleet.has(model).await,
            Err(_) => false,
        };
    };
    for model in models {
        if fleet.has(model.name).await {
            return true;
        }
    }
    false
}

/// Answers the pull with `success` if a backend has the model.
///
/// # Errors
/// No backend has the model: the client would need permission to manage models.
pub(super) async fn if_known<S, B>(
    fleet: Arc<Fleet<S>>,
    rules: ModelRules,
    refused: ManagementRefused,
    request: Request<B>,
) -> Result<Response<AnswerBody>, BoxError> {
    let llm = LlmRequest::of(request.extensions()).cloned();
    // The body is not needed any more.
    drop(request);
    let model = llm.as_ref().and_then(|llm| llm.model.as_deref());
    let is_there = match model {
        Some(model) => is_there(&fleet, &rules, model).await,
        None => false,
    };
    if !is_there {
        return Err(Failure::from(refused).into());
    }
    let streams = llm.is_none_or(|llm| llm.stream);
    let (content_type, text) = match streams {
        true => (LINES, NOTHING_TO_DO),
        false => (JSON, SUCCESS),
    };
    Ok(whole(content_type, Bytes::from_static(text.as_bytes())))
}
