//! What log lines, spans and metrics say of a request, each in one way.

use http::{Method, StatusCode};
use llamatower_layers::{Ending, Outcome};
use opentelemetry::{KeyValue, StringValue, Value};

use super::names;

/// The beginning of a text that a client supplies, which may be as long as a request's body.
pub(super) fn bounded(text: &str) -> &str {
    const MOST_BYTES: usize = 256;
    &text[..text.floor_char_boundary(MOST_BYTES)]
}

/// The methods that HTTP defines by their names, and all others by one.
pub(super) fn method_name(method: &Method) -> &'static str {
    const DEFINED: [&str; 9] = [
        "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE",
    ];
    let mut defined = DEFINED.into_iter();
    let found = defined.find(|name| *name == method.as_str());
    found.unwrap_or(names::METHOD_OTHER)
}

/// `error.type` of a request, by the rules of the HTTP convention for servers: what a client did
/// wrong (4xx, a cancel) is no error of the server.
pub(super) fn error_type(outcome: &Outcome) -> Option<StringValue> {
    let failed = outcome.status.filter(StatusCode::is_server_error);
    if failed.is_none() && outcome.ending != Ending::Broken {
        return None;
    }
    Some(match (outcome.error, failed) {
        (Some(kind), _) => kind.into(),
        (None, Some(status)) => status.as_str().to_owned().into(),
        (None, None) => names::ERROR_TYPE_OTHER.into(),
    })
}

/// An attribute, if there is a value for it.
pub(super) fn attribute(name: &'static str, value: Option<impl Into<Value>>) -> Option<KeyValue> {
    value.map(|value| KeyValue::new(name, value))
}
