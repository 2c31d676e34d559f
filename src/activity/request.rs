//! A request that has ended.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use jiff::Timestamp;
use llamatower_layers::usage::Usage;
use llamatower_layers::{Ending, Outcome};

use crate::clients::Client;
use crate::cloud::SentToCloud;
use crate::ollama::fleet::{LatestChoice, Terms};
use crate::telemetry::{bounded, trace_id};

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct FinishedRequest {
    /// When it ended.
    pub ended_at: Timestamp,
    /// Its method.
    pub method: Method,
    /// Its route.
    pub route: Option<Arc<str>>,
    /// The model that the client asked for; its beginning, if it is long.
    pub model: Option<Arc<str>>,
    /// The model that answered, if that was an alias.
    pub served_model: Option<Arc<str>>,
    /// The client.
    pub client: Option<Client>,
    /// The backend that answered.
    pub backend: Option<Arc<str>>,
    /// Why it went to the cloud service.
    pub cloud: Option<&'static str>,
    /// The number of attempts.
    pub attempts: u32,
    /// The status of the response.
    pub status: Option<u16>,
    /// How it ended.
    pub ending: Ending,
    /// The kind of the error.
    pub error: Option<&'static str>,
    /// The time in the queue.
    pub queued: Option<Duration>,
    /// The time to the first byte of the response.
    pub first_byte: Option<Duration>,
    /// The time from the head of the request to the end of the response.
    pub duration: Option<Duration>,
    /// The tokens, as counted by the backend.
    pub usage: Option<Usage>,
    /// The terms of the cost of the chosen backend.
    pub terms: Option<Terms>,
    /// The number of the choice.
    pub decision: Option<u64>,
    /// The request id.
    pub request_id: Option<String>,
    /// The id of its trace, if it is exported.
    pub trace_id: Option<String>,
}

impl FinishedRequest {
    pub(super) fn of(outcome: &Outcome, ended_at: Timestamp) -> Self {
        let choice = LatestChoice::of(outcome);
        Self {
            ended_at,
            method: outcome.method.clone(),
            route: outcome.route().cloned(),
            model: outcome.model.as_ref().map(beginning),
            served_model: outcome.served_model.as_ref().map(beginning),
            client: Client::of_outcome(outcome),
            backend: outcome.backend.clone(),
            cloud: outcome.extensions.get().map(|SentToCloud(why)| why.name()),
            attempts: outcome.attempts,
            status: outcome.status.map(|status| status.as_u16()),
            ending: outcome.ending,
            error: outcome.error,
            queued: outcome.queued,
            first_byte: outcome.time_to_first_byte,
            duration: outcome.duration,
            usage: outcome.usage,
            terms: choice.map(|choice| choice.terms),
            decision: choice.map(|choice| choice.decision.number()),
            request_id: outcome.request_id().map(|id| bounded(id).to_owned()),
            trace_id: trace_id(outcome),
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        let status = self.status.and_then(|status| status.try_into().ok());
        has_failed(self.ending, status)
    }

    pub(super) fn was_refused(&self) -> bool {
        was_refused(self.attempts, self.error)
    }
}

/// Whether a request failed and the client was not the reason.
pub(crate) fn has_failed(ending: Ending, status: Option<StatusCode>) -> bool {
    ending == Ending::Broken || status.is_some_and(|status| status.is_server_error())
}

/// Whether the gateway refused a request before a backend was asked.
pub(crate) fn was_refused(attempts: u32, error: Option<&'static str>) -> bool {
    attempts == 0 && error.is_some()
}

/// The text, or the beginning of a long one.
fn beginning(text: &Arc<str>) -> Arc<str> {
    match bounded(text) {
        whole if whole.len() == text.len() => text.clone(),
        beginning => beginning.into(),
    }
}
