//! Spans: one for each request, below it one if it runs a model, and below that one for each attempt
//! upstream.
//!
//! ```text
//! SERVER  POST /api/chat      the request            (conventions for HTTP)
//! CLIENT  chat llama3.2       the operation          (conventions for GenAI)
//! CLIENT  POST /api/chat      each attempt           (conventions for HTTP)
//! ```
//!
//! A 4xx leaves the SERVER span's status unset, because it is the client's error. It sets the status of
//! the CLIENT spans, of the operation and of the attempt, because there the gateway is the client. A
//! cancellation is not an error.
//!
//! Each exported span is an OpenTelemetry span. Beside it the log has a span of `tracing` with the level
//! `debug`, so that a log filter can name it; with the default filter none is created.

mod attempt;
mod inference;
mod request;

pub use attempt::{AttemptBody, AttemptFuture, AttemptSpans, Upstream, attempt_spans};
pub use inference::InferenceSpans;
pub(super) use inference::inference_spans;
pub use request::RequestSpans;
pub(super) use request::request_spans;
pub(crate) use request::trace_id;

use llamatower_layers::Outcome;
use opentelemetry::trace::Status;
use opentelemetry::{KeyValue, Value};

use super::names;

/// Writes the outcome into the spans of the request; both end.
pub(super) fn finish(outcome: &Outcome) {
    inference::finish(outcome);
    request::finish(outcome);
}

/// The attributes of a span; one without a value is left out.
#[derive(Debug, Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(name, value));
    }

    fn add_some(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// Adds the kind of an error, and returns the status of a span that fails with it.
    fn fail(&mut self, kind: impl Into<Value>) -> Status {
        self.add(names::ERROR_TYPE, kind);
        Status::error("")
    }
}
