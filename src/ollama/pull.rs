//! A pull by a client that may not manage models, of a model that is there.
//!
//! Some programs pull a model before they use it, whether it is there or not. Ollama then finds that
//! nothing is to be done and says so. A client that may not manage gets this answer without a server
//! being asked.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use llamatower_layers::api_key::ManagementRefused;
use llamatower_layers::{BoxError, Failure, LlmRequest, ModelName};

use super::attempt::AnswerBody;
use super::fleet::Fleet;
use super::whole;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// What Ollama says of a pull that finds nothing to do, but for the sizes of the model's layers.
const NOTHING_TO_DO: &str = r#"{"status":"pulling manifest"}
{"status":"verifying sha256 digest"}
{"status":"writing manifest"}
{"status":"success"}
"#;

/// The same without a stream.
const SUCCESS: &str = r#"{"status":"success"}"#;

/// Why the client of this request may not pull, if it may not.
pub(super) fn refused<B>(request: &Request<B>) -> Option<ManagementRefused> {
    request.extensions().get().cloned()
}

/// Says that nothing is to be done, if a backend has the model.
///
/// # Errors
/// None has it: the client would have to be let manage.
pub(super) async fn if_known<S, B>(
    fleet: Arc<Fleet<S>>,
    refused: ManagementRefused,
    request: Request<B>,
) -> Result<Response<AnswerBody>, BoxError> {
    let llm = LlmRequest::of(request.extensions()).cloned();
    // The body is not needed while the fleet is asked.
    drop(request);
    let model = llm.as_ref().and_then(|llm| llm.model.as_deref());
    let model = model.and_then(|model| ModelName::parse(model).ok());
    let is_there = match model {
        Some(model) => fleet.has(model).await,
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
