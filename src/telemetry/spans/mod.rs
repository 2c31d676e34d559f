//! Spans: one for each request, below it one if it runs a model, and below that one for each attempt
//! upstream.
//!
//! ```text
//! SERVER  POST /api/chat      the request            (conventions for HTTP)
//! CLIENT  chat llama3.2       the operation          (conventions for GenAI)
//! CLIENT  POST /api/chat      each attempt           (conventions for HTTP)
//! ```
//!
//! A 4xx leaves the SERVER span's status unset, because it is the client's error. It sets the
//! status of the CLIENT span of the attempt, because there the gateway is the client. A cancellation is not an error.

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
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::names;

/// Writes the outcome into the spans of the request; both end.
pub(super) fn finish(outcome: &Outcome) {
    inference::finish(outcome);
    request::finish(outcome);
}

/// A span that ends when it is dropped.
///
/// For `tracing-opentelemetry`, a span ends at its last exit, which would be the head of a stream.
/// So the span is entered once more when it is dropped.
#[derive(Debug)]
struct HeldSpan(Span);

impl Drop for HeldSpan {
    fn drop(&mut self) {
        end(&self.0);
    }
}

fn end(span: &Span) {
    span.in_scope(|| {});
}

/// Sets an attribute if there is a value.
fn set(span: &Span, name: &'static str, value: Option<impl Into<opentelemetry::Value>>) {
    if let Some(value) = value {
        span.set_attribute(name, value);
    }
}

fn fail(span: &Span, kind: impl Into<opentelemetry::Value>) {
    span.set_attribute(names::ERROR_TYPE, kind);
    span.set_status(Status::error(""));
}
