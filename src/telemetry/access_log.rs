//! One line for a request, at its end.
//!
//! Texts that a client supplies (model, path) are written as quoted strings, in which control
//! characters are escaped, or as JSON: nobody can write a line of the log by the name of a model.

use llamatower_layers::Outcome;

use super::attributes::{bounded, method_name};
use super::{names, spans};
use crate::edge::Refused;

/// Writes the line. Durations are in seconds. A field that is not known is left out.
pub(super) fn write(outcome: &Outcome) {
    tracing::info!(
        target: names::ACCESS_LOG,
        method = method_name(&outcome.method),
        route = outcome.route().map(|route| &**route),
        path = outcome.route().is_none().then(|| bounded(outcome.uri.path())),
        status = outcome.status.map(|status| status.as_u16()),
        model = outcome.model.as_deref().map(bounded),
        stream = outcome.stream,
        backend = outcome.backend.as_deref(),
        attempts = outcome.attempts,
        duration = outcome.duration.map(seconds),
        ttfb = outcome.time_to_first_byte.map(seconds),
        queued = outcome.queued.map(seconds),
        prompt_tokens = outcome.usage.map(|usage| usage.prompt_tokens),
        output_tokens = outcome.usage.map(|usage| usage.output_tokens),
        ending = outcome.ending.name(),
        error = outcome.error,
        client = outcome.client_address.map(|client| tracing::field::display(client.0)),
        identity = outcome.identity.as_deref(),
        request_id = outcome.request_id().map(bounded),
        trace_id = spans::trace_id(outcome),
        "request"
    );
}

/// Writes the line of a request that the edge refused. Fields that are not known are left out, and
/// those that only layers know.
pub(super) fn write_refused(refused: &Refused<'_>) {
    tracing::info!(
        target: names::ACCESS_LOG,
        method = refused.method.map(method_name),
        path = refused.path.map(bounded),
        status = refused.status.as_u16(),
        error = refused.reason,
        client = refused.client.map(tracing::field::display),
        host = refused.host.map(bounded),
        origin = refused.origin.map(bounded),
        "request"
    );
}

/// Whole microseconds: more digits are noise.
fn seconds(time: std::time::Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}
