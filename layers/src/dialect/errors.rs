//! Errors as each dialect's clients expect them.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::Dialect;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// A failure to be told to a client.
#[derive(Clone, Copy, Debug)]
pub struct ErrorText<'a> {
    /// The status of the answer; in a stream, the one it would have had.
    pub status: StatusCode,
    /// What happened and what to do.
    pub message: &'a str,
    /// The request's id, if it has one.
    pub request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Native<'a> {
    error: &'a str,
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
struct ResponsesEvent<'a> {
    r#type: &'static str,
    code: &'static str,
    message: &'a str,
    param: Option<()>,
    sequence_number: u32,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    r#type: &'static str,
    error: AnthropicError<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
}

impl Dialect {
    /// The body of an answer that says what failed, and its content type.
    pub fn error_body(self, text: ErrorText<'_>) -> (HeaderValue, Bytes) {
        match self {
            Self::Ollama => (JSON, json(&native(text))),
            Self::OpenAi | Self::Responses => (JSON, json(&open_ai(text))),
            Self::Anthropic => (JSON, json(&anthropic(text))),
            Self::Text => (TEXT, Bytes::copy_from_slice(text.message.as_bytes())),
        }
    }

    /// What ends a stream that broke, so that the dialect's clients raise an error: a line of
    /// NDJSON, or an event.
    pub fn error_frame(self, text: ErrorText<'_>) -> Bytes {
        match self {
            Self::Ollama | Self::Text => framed("", &native(text), "\n"),
            Self::OpenAi => framed("data: ", &open_ai(text), "\n\n"),
            Self::Responses => framed("event: error\ndata: ", &responses_event(text), "\n\n"),
            Self::Anthropic => framed("event: error\ndata: ", &anthropic(text), "\n\n"),
        }
    }
}

fn native(text: ErrorText<'_>) -> Native<'_> {
    Native {
        error: text.message,
    }
}

fn open_ai(text: ErrorText<'_>) -> OpenAi<'_> {
    OpenAi {
        error: OpenAiError {
            message: text.message,
            r#type: open_ai_type(text.status),
            param: None,
            code: None,
        },
    }
}

fn responses_event(text: ErrorText<'_>) -> ResponsesEvent<'_> {
    ResponsesEvent {
        r#type: "error",
        code: "server_error",
        message: text.message,
        param: None,
        sequence_number: 0,
    }
}

fn anthropic(text: ErrorText<'_>) -> Anthropic<'_> {
    Anthropic {
        r#type: "error",
        error: AnthropicError {
            r#type: anthropic_type(text.status),
            message: text.message,
        },
        request_id: text.request_id,
    }
}

/// As Ollama 0.33 names them; 401 and 429, which it has not, as OpenAI does.
fn open_ai_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

fn json(value: &impl Serialize) -> Bytes {
    framed("", value, "")
}

/// JSON on one line: some clients split lines at U+2028, U+2029 and U+0085, which serde_json
/// leaves as they are.
fn framed(before: &str, value: &impl Serialize, after: &str) -> Bytes {
    let json = serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned());
    let json = json
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
        .replace('\u{85}', "\\u0085");
    Bytes::from(format!("{before}{json}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: u16) -> ErrorText<'static> {
        ErrorText {
            status: StatusCode::from_u16(status).expect("a status"),
            message: "a \"b\"\u{2028}c",
            request_id: Some("r1"),
        }
    }

    #[test]
    fn errors_have_the_shape_of_their_dialect() {
        for (dialect, expected) in [
            (Dialect::Ollama, r#"{"error":"a \"b\"\u2028c"}"#),
            (
                Dialect::OpenAi,
                r#"{"error":{"message":"a \"b\"\u2028c","type":"not_found_error","param":null,"code":null}}"#,
            ),
            (
                Dialect::Anthropic,
                r#"{"type":"error","error":{"type":"not_found_error","message":"a \"b\"\u2028c"},"request_id":"r1"}"#,
            ),
        ] {
            assert_eq!(dialect.error_body(text(404)).1, expected);
        }
        assert_eq!(Dialect::Text.error_body(text(404)).1, "a \"b\"\u{2028}c");
    }

    #[test]
    fn frames_are_one_line_or_one_event() {
        for (dialect, begins, ends) in [
            (Dialect::Ollama, "{\"error\":", "}\n"),
            (Dialect::OpenAi, "data: {\"error\":{", "}}\n\n"),
            (
                Dialect::Responses,
                "event: error\ndata: {\"type\":\"error\",",
                "}\n\n",
            ),
            (
                Dialect::Anthropic,
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"",
                "}\n\n",
            ),
        ] {
            let frame = String::from_utf8(dialect.error_frame(text(502)).to_vec()).expect("text");
            assert!(
                frame.starts_with(begins) && frame.ends_with(ends),
                "{frame}"
            );
        }
    }
}
