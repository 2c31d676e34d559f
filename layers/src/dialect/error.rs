//! The formats of errors. Those of responses are Ollama 0.33's, byte for byte. Ollama sends no
//! error in the middle of an event stream, so those frames follow the vendors' formats.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::{Dialect, ResponseSoFar};
use crate::frames::Framing;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// The content of an error for a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorText<'a> {
    /// The message for people.
    pub message: &'a str,
    /// The request's id, for dialects that have a field for it.
    pub request_id: Option<&'a str>,
}

impl<'a> From<&'a str> for ErrorText<'a> {
    fn from(message: &'a str) -> Self {
        Self {
            message,
            request_id: None,
        }
    }
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
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    r#type: &'a str,
    error: AnthropicError<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'a str,
    message: &'a str,
}

impl Dialect {
    /// A response with an error.
    ///
    /// ```
    /// use http::StatusCode;
    /// use llamatower_layers::Dialect;
    ///
    /// let answer = Dialect::Ollama.error_response(StatusCode::BAD_REQUEST, "model is required");
    /// assert_eq!(answer.body(), r#"{"error":"model is required"}"#);
    /// ```
    pub fn error_response<'a>(
        self,
        status: StatusCode,
        text: impl Into<ErrorText<'a>>,
    ) -> Response<Bytes> {
        let text = text.into();
        let (content_type, body) = match self {
            Self::Text => (TEXT, Bytes::copy_from_slice(text.message.as_bytes())),
            _ => (JSON, self.error_json(status, text).into()),
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
        answer
    }

    fn error_json(self, status: StatusCode, text: ErrorText<'_>) -> String {
        let ErrorText {
            message,
            request_id,
        } = text;
        match self {
            Self::Ollama | Self::Text => json(&Native { error: message }),
            Self::OpenAi | Self::Responses => json(&OpenAi {
                error: OpenAiError {
                    message,
                    r#type: openai_type(status),
                    param: None,
                    code: None,
                },
            }),
            Self::Anthropic => json(&Anthropic {
                r#type: "error",
                error: AnthropicError {
                    r#type: anthropic_type(status),
                    message,
                },
                request_id,
            }),
        }
    }

    /// The line or event that ends a stream with an error. It may only be sent between two lines or
    /// events.
    ///
    /// `so_far` describes a stream of [`Responses`](Self::Responses) up to now; other dialects
    /// ignore it.
    ///
    /// ```
    /// use llamatower_layers::Dialect;
    /// use llamatower_layers::dialect::ResponseSoFar;
    /// use llamatower_layers::frames::Framing;
    ///
    /// let so_far = ResponseSoFar::default();
    /// let frame = Dialect::Ollama.error_frame(Framing::Ndjson, "the connection broke", &so_far);
    /// assert_eq!(frame, "{\"error\":\"the connection broke\"}\n");
    /// ```
    pub fn error_frame<'a>(
        self,
        framing: Framing,
        text: impl Into<ErrorText<'a>>,
        so_far: &ResponseSoFar,
    ) -> Bytes {
        const STATUS: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;
        let text = text.into();
        let frame = match (framing, self) {
            (Framing::Ndjson, _) => format!("{}\n", self.error_json(STATUS, text)),
            (Framing::Sse, Self::Anthropic) => {
                format!("event: error\ndata: {}\n\n", self.error_json(STATUS, text))
            }
            (Framing::Sse, Self::Responses) => format!(
                "event: response.failed\ndata: {}\n\n",
                json(&so_far.failed(text.message))
            ),
            (Framing::Sse, _) => format!("data: {}\n\n", self.error_json(STATUS, text)),
        };
        frame.into()
    }
}

/// The names of Ollama 0.33; for other statuses, those of OpenAI.
fn openai_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// The names of Ollama 0.33; for other statuses, those of Anthropic.
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

/// JSON on one line, also for readers that treat Unicode's separators as the end of a line
/// (Python's `splitlines`, which some HTTP libraries use).
fn json(value: &impl Serialize) -> String {
    // The structs contain only texts and numbers, whose serialization cannot fail.
    let text = serde_json::to_string(value).unwrap_or_default();
    if text.is_ascii() {
        return text;
    }
    // Outside of strings JSON is ASCII, so these characters are in strings and can be escaped.
    text.replace('\u{85}', "\\u0085")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ALL: [Dialect; 5] = [
        Dialect::Ollama,
        Dialect::OpenAi,
        Dialect::Responses,
        Dialect::Anthropic,
        Dialect::Text,
    ];

    fn body(dialect: Dialect, status: u16, text: ErrorText<'_>) -> String {
        let status = StatusCode::from_u16(status).expect("a status");
        let answer = dialect.error_response(status, text);
        assert_eq!(answer.status(), status);
        String::from_utf8(answer.into_body().to_vec()).expect("text")
    }

    #[test]
    fn error_responses_equal_those_of_ollama() {
        let absent = ErrorText::from("model 'absent' not found");
        assert_eq!(
            body(Dialect::Ollama, 404, absent),
            r#"{"error":"model 'absent' not found"}"#
        );
        assert_eq!(
            body(Dialect::OpenAi, 404, absent),
            r#"{"error":{"message":"model 'absent' not found","type":"not_found_error","param":null,"code":null}}"#
        );
        let with_id = ErrorText {
            request_id: Some("req_f6eb"),
            ..absent
        };
        assert_eq!(
            body(Dialect::Anthropic, 404, with_id),
            r#"{"type":"error","error":{"type":"not_found_error","message":"model 'absent' not found"},"request_id":"req_f6eb"}"#
        );
        assert_eq!(
            body(Dialect::Text, 404, "404 page not found".into()),
            "404 page not found"
        );
    }

    #[test]
    fn the_error_type_follows_from_the_status() {
        for (status, openai, anthropic) in [
            (400, "invalid_request_error", "invalid_request_error"),
            (401, "authentication_error", "authentication_error"),
            (403, "invalid_request_error", "permission_error"),
            (404, "not_found_error", "not_found_error"),
            (413, "invalid_request_error", "request_too_large"),
            (429, "rate_limit_error", "rate_limit_error"),
            (502, "api_error", "api_error"),
            (503, "api_error", "overloaded_error"),
        ] {
            let text = body(Dialect::Responses, status, "x".into());
            assert!(text.contains(&format!(r#""type":"{openai}""#)), "{text}");
            let text = body(Dialect::Anthropic, status, "x".into());
            assert!(text.contains(&format!(r#""type":"{anthropic}""#)), "{text}");
        }
    }

    #[test]
    fn error_responses_have_the_content_type_of_their_dialect() {
        for dialect in ALL {
            let answer = dialect.error_response(StatusCode::BAD_GATEWAY, "x");
            let expected = match dialect {
                Dialect::Text => "text/plain",
                _ => "application/json; charset=utf-8",
            };
            assert_eq!(answer.headers()[CONTENT_TYPE], expected);
        }
    }

    #[test]
    fn error_frames_make_the_vendors_libraries_raise() {
        let so_far = ResponseSoFar::default();
        let frame = |dialect: Dialect, framing| dialect.error_frame(framing, "gone", &so_far);
        assert_eq!(
            frame(Dialect::Ollama, Framing::Ndjson),
            "{\"error\":\"gone\"}\n"
        );
        assert_eq!(
            frame(Dialect::OpenAi, Framing::Sse),
            "data: {\"error\":{\"message\":\"gone\",\"type\":\"api_error\",\"param\":null,\"code\":null}}\n\n"
        );
        assert_eq!(
            frame(Dialect::Anthropic, Framing::Sse),
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"gone\"}}\n\n"
        );
    }

    #[test]
    fn no_text_breaks_a_frame() {
        let message = "a\nb\r\n\n\u{b}\u{c}\u{1c}\u{85}\u{2028}\u{2029}\"\\ ä 🦙";
        let breaks = |text: &str| {
            text.contains([
                '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{85}', '\u{2028}', '\u{2029}',
            ])
        };
        for (dialect, framing) in ALL
            .into_iter()
            .flat_map(|dialect| [(dialect, Framing::Ndjson), (dialect, Framing::Sse)])
        {
            let frame = dialect.error_frame(framing, message, &ResponseSoFar::default());
            let text = std::str::from_utf8(&frame).expect("text").trim_end();
            let text = text.rsplit("data: ").next().expect("a part");
            assert!(!breaks(text), "{text}");
            let value: Value = serde_json::from_str(text).expect("JSON");
            let error = value.get("error").or(value.pointer("/response/error"));
            let error = error.expect("an error");
            let reported = error.as_str().or_else(|| error["message"].as_str());
            assert_eq!(reported, Some(message));
        }
    }
}
