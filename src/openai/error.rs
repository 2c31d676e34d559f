//! Errors of the translation, and the texts of errors that servers send.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;
use llamatower_layers::{Fail, Retryable, Side};
use serde::Deserialize;
use serde_json::Value;

/// Limit of an error text from a server, in bytes.
const MAX_TEXT: usize = 2000;

/// Why a request cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untranslatable {
    /// The request is wrong in itself; the text is for the client.
    Invalid(String),
    /// The dialect has no equivalent of this part of the request, which would change the answer.
    NoEquivalent(Cow<'static, str>),
}

impl Untranslatable {
    pub(super) fn no(part: impl Into<Cow<'static, str>>) -> Self {
        Self::NoEquivalent(part.into())
    }
}

/// The request is wrong in itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRequest(pub(super) String);

impl Fail for InvalidRequest {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "invalid_request"
    }
}

/// A part of the request has no equivalent in OpenAI's dialect. An Ollama server with the same model
/// may take it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part} has no equivalent on {server}, which is an OpenAI-compatible server; leave it out, or use \
     a model of an Ollama server"
)]
pub struct NoEquivalent {
    pub(super) part: Cow<'static, str>,
    pub(super) server: Arc<str>,
}

impl Fail for NoEquivalent {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "no_equivalent"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Elsewhere
    }
}

/// The server does not have this route. Another server may have it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{server}, which is an OpenAI-compatible server, does not offer {path}")]
pub struct NotOffered {
    pub(super) path: Box<str>,
    pub(super) server: Arc<str>,
}

impl Fail for NotOffered {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::NOT_IMPLEMENTED
    }
    fn kind(&self) -> &'static str {
        "not_offered"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Elsewhere
    }
}

/// The server does not accept the gateway's token; clients cannot change that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{server} answered {status} to the gateway; its token in LLAMATOWER_BACKEND_TOKENS is wrong or missing"
)]
pub struct TokenRefused {
    pub(super) status: StatusCode,
    pub(super) server: Arc<str>,
}

impl Fail for TokenRefused {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "token_refused"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Elsewhere
    }
}

/// The server's answer cannot be translated, because it is incomplete or not in OpenAI's dialect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response of {server} cannot be translated: {reason}")]
pub struct InvalidAnswer {
    pub(super) reason: Cow<'static, str>,
    pub(super) server: Arc<str>,
}

impl Fail for InvalidAnswer {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "invalid_answer"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Elsewhere
    }
}

/// What the model has written cannot be passed on in Ollama's dialect. It says nothing about the server, and
/// no other one is asked: it would generate all of it again, with no better chance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response of {server} cannot be translated: {reason}")]
pub struct UnusableAnswer {
    pub(super) reason: &'static str,
    pub(super) server: Arc<str>,
}

impl Fail for UnusableAnswer {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "invalid_answer"
    }
}

/// The text of an error answer, in the forms that servers use: `{"error":{"message":..}}`,
/// `{"error":".."}`, `{"message":..}` (older vLLM), `{"detail":..}` (FastAPI), or plain text.
pub fn text_of(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    struct Page {
        #[serde(default)]
        error: Value,
        #[serde(default)]
        message: Value,
        #[serde(default)]
        detail: Value,
    }
    let page: Page = serde_json::from_slice(body).unwrap_or_default();
    let texts = [&page.error, &page.message, &page.detail];
    let text = texts.into_iter().find_map(message_in);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    limited(text)
}

/// The text of an `error` member: the text itself, its `message`, or all of it.
pub(super) fn message_in(error: &Value) -> Option<String> {
    match error {
        Value::Null | Value::Bool(false) => None,
        Value::String(text) => Some(limited(text.clone())),
        Value::Object(members) => match members.get("message") {
            Some(Value::String(text)) => Some(limited(text.clone())),
            _ => Some(limited(error.to_string())),
        },
        other => Some(limited(other.to_string())),
    }
}

/// The HTTP status that an `error` member names, if it names an error status.
pub(super) fn status_in(error: &Value) -> Option<StatusCode> {
    let members = error.as_object()?;
    let number = |name| {
        let value = members.get(name)?;
        value
            .as_u64()
            .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
    };
    let named = number("code")
        .or_else(|| number("status_code"))
        .or_else(|| number("status"))?;
    let status = StatusCode::from_u16(u16::try_from(named).ok()?).ok()?;
    (status.is_client_error() || status.is_server_error()).then_some(status)
}

fn limited(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_is_found_in_the_error_answers_of_all_servers() {
        for (body, text) in [
            (
                r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}"#,
                "The model `x` does not exist.",
            ),
            (r#"{"error":"Unexpected endpoint"}"#, "Unexpected endpoint"),
            (
                r#"{"object":"error","message":"too long","type":"BadRequestError","code":400}"#,
                "too long",
            ),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"error":{"code":7}}"#, r#"{"code":7}"#),
            ("bad gateway\n", "bad gateway"),
            (r#"{"other":1}"#, r#"{"other":1}"#),
        ] {
            assert_eq!(text_of(body.as_bytes()), text);
        }
        assert!(text_of("ä".repeat(5000).as_bytes()).len() < 2100);
    }

    #[test]
    fn the_status_of_an_error_is_its_code_if_that_is_an_error_status() {
        for (error, status) in [
            (json!({"code": 503}), Some(503)),
            (json!({"code": "429"}), Some(429)),
            (json!({"status_code": 498}), Some(498)),
            (json!({"code": 200}), None),
            (json!({"code": "model_not_found"}), None),
            (json!("text"), None),
            (json!({"code": 70_000}), None),
        ] {
            assert_eq!(status_in(&error).map(|status| status.as_u16()), status);
        }
    }
}
