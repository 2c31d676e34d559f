//! The access log: one line for each request, at its end.
//!
//! Texts from clients (model, path) are written as quoted strings with escaped control characters,
//! or as JSON. So a client cannot inject a log line.

use std::time::Duration;

use llamatower_layers::Outcome;
use llamatower_layers::llm_request::LimitedOutput;

use super::attributes::{bounded, method_name};
use super::{names, spans};
use crate::cloud::SentToCloud;
use crate::edge::Refused;
use crate::ollama::everywhere::AskedServers;

/// Writes the line. Durations are in seconds. Unknown fields are omitted.
pub(super) fn write(outcome: &Outcome) {
    let servers = outcome.extensions.get::<AskedServers>();
    let several = servers.filter(|servers| servers.asked.len() > 1);
    let failed = servers.filter(|servers| !servers.failed.is_empty());
    tracing::info!(
        target: names::ACCESS_LOG,
        method = method_name(&outcome.method),
        route = outcome.route().map(|route| &**route),
        path = outcome.route().is_none().then(|| bounded(outcome.uri.path())),
        status = outcome.status.map(|status| status.as_u16()),
        model = outcome.model.as_deref().map(bounded),
        served_model = outcome.served_model.as_deref().map(bounded),
        stream = outcome.stream,
        backend = outcome.backend.as_deref().filter(|_| several.is_none()),
        backends = several.map(|servers| servers.asked.join(", ")),
        failed_backends = failed.map(|servers| servers.failed.join(", ")),
        cache = outcome.cache,
        cloud = outcome.extensions.get().map(|SentToCloud(reason)| reason.name()),
        attempts = outcome.attempts,
        duration = outcome.duration.map(seconds),
        ttfb = outcome.time_to_first_byte.map(seconds),
        queued = outcome.queued.map(seconds),
        load = load_time(outcome).map(seconds),
        max_output_tokens = outcome.extensions.get().map(|LimitedOutput(tokens)| *tokens),
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

/// Writes the line of a request that the edge refused. Unknown fields, and those that only layers
/// know, are omitted.
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

/// The time in which the server has loaded the model, by its count. A translated response has none.
fn load_time(outcome: &Outcome) -> Option<Duration> {
    let timings = outcome.usage?.timings?;
    Some(timings.load).filter(|load| !load.is_zero())
}

/// Rounded to whole microseconds.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}
