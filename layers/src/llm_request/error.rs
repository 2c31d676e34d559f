//! Errors of unusable bodies.

use std::fmt;

use http::StatusCode;

use super::scan::ScanError;
use crate::{Dialect, Endpoint, Fail, Side};

/// The body is not valid for the endpoint. The texts are Ollama's own, where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct MalformedBody {
    /// What is wrong.
    pub reason: ScanError,
    dialect: Dialect,
    reads: Option<(&'static str, &'static str)>,
}

impl MalformedBody {
    /// The error for a body sent to this endpoint.
    pub fn at(endpoint: &Endpoint, reason: ScanError) -> Self {
        Self {
            reason,
            dialect: endpoint.dialect,
            reads: go_type(&endpoint.route),
        }
    }
}

/// The package and name of the Go type into which Ollama reads a route's body.
fn go_type(route: &str) -> Option<(&'static str, &'static str)> {
    Some(match route {
        "/api/generate" => ("api", "GenerateRequest"),
        "/api/chat" => ("api", "ChatRequest"),
        "/api/embed" => ("api", "EmbedRequest"),
        "/api/embeddings" => ("api", "EmbeddingRequest"),
        "/api/show" => ("api", "ShowRequest"),
        "/api/pull" => ("api", "PullRequest"),
        "/api/push" => ("api", "PushRequest"),
        "/api/create" => ("api", "CreateRequest"),
        "/api/copy" => ("api", "CopyRequest"),
        "/api/delete" => ("api", "DeleteRequest"),
        "/v1/chat/completions" => ("openai", "ChatCompletionRequest"),
        "/v1/completions" => ("openai", "CompletionRequest"),
        "/v1/embeddings" => ("openai", "EmbedRequest"),
        "/v1/responses" => ("openai", "ResponsesRequest"),
        "/v1/messages" => ("anthropic", "MessagesRequest"),
        _ => return None,
    })
}

impl fmt::Display for MalformedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.reason, self.reads) {
            (ScanError::Empty, _) if self.dialect != Dialect::Ollama => f.write_str("EOF"),
            (ScanError::NotAnObject { found }, Some((package, name))) if *found != "null" => {
                write!(
                    f,
                    "json: cannot unmarshal {found} into Go value of type {package}.{name}"
                )
            }
            (
                ScanError::WrongType {
                    key,
                    found,
                    expected,
                },
                Some((_, name)),
            ) => write!(
                f,
                "json: cannot unmarshal {found} into Go struct field {name}.{key} of type {expected}"
            ),
            (reason, _) => reason.fmt(f),
        }
    }
}

impl Fail for MalformedBody {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        match self.reason {
            ScanError::Empty => "missing_body",
            ScanError::AmbiguousKey { .. } => "ambiguous_key",
            ScanError::InvalidModelName => "invalid_model_name",
            _ => "malformed_body",
        }
    }
}

/// The body is compressed, so that the limit of its response cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the response must be limited to at most {max} tokens: set a limit in the request, or send its body uncompressed"
)]
pub(super) struct UnlimitedOutput {
    pub(super) max: u64,
}

impl Fail for UnlimitedOutput {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    }
    fn kind(&self) -> &'static str {
        "unlimited_output"
    }
}

/// The endpoint does not support the body's encoding (RFC 9110 15.5.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unsupported Content-Encoding: send the request body uncompressed{}",
    if *.reads_zstd { " or as zstd" } else { "" }
)]
pub struct UnsupportedEncoding {
    pub(super) reads_zstd: bool,
}

impl Fail for UnsupportedEncoding {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    }
    fn kind(&self) -> &'static str {
        "unsupported_encoding"
    }
}
