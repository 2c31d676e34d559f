//! Answers and errors, in the format of each family of routes.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::{SimBody, json};

/// The content type of gin's `c.JSON`.
pub(crate) const JSON_UTF8: &str = "application/json; charset=utf-8";
/// The content type that Ollama sets by hand.
pub(crate) const JSON: &str = "application/json";
/// The content type of native streams.
pub(crate) const NDJSON: &str = "application/x-ndjson";
/// The content type of server-sent events.
pub(crate) const EVENTS: &str = "text/event-stream";

/// Go's server omits the Content-Length of an answer that exceeds its first buffer.
const GO_BUFFER: usize = 2048;

/// The format of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Native,
    OpenAi,
    Responses,
    Anthropic,
}

impl Dialect {
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/v1/messages" => Self::Anthropic,
            "/v1/responses" => Self::Responses,
            _ if path.starts_with("/v1/") => Self::OpenAi,
            _ => Self::Native,
        }
    }
}

/// The error answer of a route.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    message: String,
    source: Source,
}

/// The part of Ollama that writes the error: the parts differ in content type and final newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The handler of a native route. On /v1 routes a writer translates its error.
    Handler,
    /// The middleware of a /v1 route, before the handler.
    Middleware,
    /// The reader of a progress channel (pull, push, create with `stream:false`).
    Progress,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            source: Source::Handler,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The scheduler's queue is full. The two spaces are in Ollama's message too.
    pub(crate) fn busy() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server busy, please try again.  maximum pending requests exceeded",
        )
    }

    /// The same error, raised before the handler.
    pub(crate) fn by_middleware(mut self) -> Self {
        self.source = Source::Middleware;
        self
    }

    /// The same error, raised by a progress channel.
    pub(crate) fn by_progress(mut self) -> Self {
        self.source = Source::Progress;
        self
    }

    pub(crate) fn answer(
        &self,
        dialect: Dialect,
        id: impl FnOnce() -> String,
    ) -> Response<SimBody> {
        let message = &*self.message;
        if dialect == Dialect::Native {
            let content_type = match self.source {
                Source::Progress => JSON,
                _ => JSON_UTF8,
            };
            return bytes(self.status, content_type, error_line(message));
        }
        let mut body = if dialect == Dialect::Anthropic {
            json::to_vec(&Anthropic {
                r#type: "error",
                error: AnthropicError {
                    r#type: anthropic_type(self.status),
                    message,
                },
                request_id: id(),
            })
        } else {
            json::to_vec(&OpenAi {
                error: OpenAiError {
                    message,
                    r#type: openai_type(self.status),
                    param: None,
                    code: None,
                },
            })
        };
        let content_type = if self.source == Source::Middleware {
            JSON_UTF8
        } else {
            body.push(b'\n');
            JSON
        };
        bytes(self.status, content_type, body)
    }
}

/// `{"error":"..."}`, without a newline.
pub(crate) fn error_line(message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Native<'a> {
        error: &'a str,
    }
    json::to_vec(&Native { error: message })
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<()>,
    code: Option<()>,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    r#type: &'static str,
    error: AnthropicError<'a>,
    request_id: String,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
}

fn openai_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

/// A JSON answer like gin's `c.JSON`.
pub(crate) fn ok<T: Serialize + ?Sized>(value: &T) -> Response<SimBody> {
    bytes(StatusCode::OK, JSON_UTF8, json::to_vec(value))
}

/// A JSON answer of /v1 routes: another content type, and a newline.
pub(crate) fn ok_v1<T: Serialize + ?Sized>(value: &T) -> Response<SimBody> {
    let mut body = json::to_vec(value);
    body.push(b'\n');
    bytes(StatusCode::OK, JSON, body)
}

/// A status without body and content type.
pub(crate) fn empty(status: StatusCode) -> Response<SimBody> {
    let mut answer = Response::new(SimBody::full(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// A complete body.
pub(crate) fn bytes(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<SimBody> {
    let body = body.into();
    let json = content_type.starts_with(JSON);
    let body = if json && body.len() > GO_BUFFER {
        SimBody::lines([body].into())
    } else {
        SimBody::full(body)
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Gin's answer to an unknown path.
pub(crate) fn unknown_path() -> Response<SimBody> {
    bytes(StatusCode::NOT_FOUND, "text/plain", "404 page not found")
}

/// Gin's answer to a method that the path does not support.
pub(crate) fn wrong_method(allow: HeaderValue) -> Response<SimBody> {
    let mut answer = bytes(
        StatusCode::METHOD_NOT_ALLOWED,
        "text/plain",
        "405 method not allowed",
    );
    answer.headers_mut().insert(ALLOW, allow);
    answer
}
