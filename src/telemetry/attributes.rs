//! Attributes that log lines, spans and metrics have in common.

use std::time::Duration;

use http::{Extensions, Method, StatusCode};
use llamatower_layers::{Ending, Outcome};
use opentelemetry::{KeyValue, StringValue, Value};

use super::names;

/// The provider of a request's latest attempt (`gen_ai.provider.name`), in the extensions of its
/// outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Provider(pub(crate) &'static str);

impl Provider {
    /// The provider of a request; Ollama, whose API clients use, if no server was asked.
    pub(super) fn of(outcome: &Outcome) -> &'static str {
        let attempted = outcome.extensions.get();
        attempted.map_or(names::OLLAMA, |Self(name)| name)
    }

    /// Notes the provider of an attempt. Ollama, which most are, takes no place.
    pub(super) fn put_into(self, outcome: &mut Extensions) {
        match self.0 {
            names::OLLAMA => drop(outcome.remove::<Self>()),
            _ => drop(outcome.insert(self)),
        }
    }
}

/// The beginning of a text from a client, which may be as long as a request's body.
pub(crate) fn bounded(text: &str) -> &str {
    const MOST_BYTES: usize = 256;
    &text[..text.floor_char_boundary(MOST_BYTES)]
}

/// The values of the method attribute: those that HTTP defines, and one for all others.
pub(super) const METHODS: [&str; 10] = [
    "POST",
    "GET",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    names::METHOD_OTHER,
];

/// The scheme of a request that arrived over TLS, or not.
pub(super) fn scheme(over_tls: bool) -> &'static str {
    match over_tls {
        true => "https",
        false => "http",
    }
}

/// The index of a method in [`METHODS`].
pub(super) fn method_index(method: &Method) -> usize {
    let mut names = METHODS.iter();
    let found = names.position(|name| *name == method.as_str());
    found.unwrap_or(METHODS.len() - 1)
}

pub(super) fn method_name(method: &Method) -> &'static str {
    METHODS[method_index(method)]
}

/// `error.type` of a request, by the HTTP convention for servers: a client's error (4xx, a
/// cancellation) is not an error of the server.
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

/// The time from first sending a request to the first byte of a backend's stream; `None` for other
/// responses, and if no backend was asked.
pub(super) fn time_to_first_chunk(outcome: &Outcome) -> Option<Duration> {
    let is_served = outcome.status == Some(StatusCode::OK) && outcome.backend.is_some();
    let answered = outcome
        .last_answered
        .filter(|_| outcome.stream && is_served)?;
    Some(answered.saturating_duration_since(outcome.first_sent?))
}

/// An attribute, if there is a value for it.
pub(super) fn attribute(name: &'static str, value: Option<impl Into<Value>>) -> Option<KeyValue> {
    value.map(|value| KeyValue::new(name, value))
}
