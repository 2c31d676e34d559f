//! The last requests, and totals of the last minutes.

use serde::{Deserialize, Serialize};

use super::{rounded, seconds};
use crate::activity::{Activity as Kept, FinishedRequest, Totals};
use crate::ollama::fleet::Terms;

/// The document `/status/requests`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Activity {
    /// The last requests that ran or managed a model, the latest first.
    pub requests: Vec<RequestRow>,
    /// The last 15 minutes in intervals, the oldest first.
    pub intervals: Vec<Interval>,
    /// The length of an interval.
    pub interval: f64,
    /// What each client has used since the gateway has started, the largest number of tokens first.
    pub clients: Vec<ClientRow>,
}

/// A request that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct RequestRow {
    /// When it ended.
    pub ended_at: String,
    /// Its method and route.
    pub route: String,
    /// The model that the client asked for.
    pub model: Option<String>,
    /// The model that answered, if that was an alias.
    pub served_model: Option<String>,
    /// `key:NAME`, `user:KEY/USER` or `address:ADDRESS`.
    pub client: Option<String>,
    /// The backend that answered.
    pub backend: Option<String>,
    /// Why it went to the cloud service; null if it did not.
    pub cloud: Option<String>,
    /// The number of attempts.
    pub attempts: u32,
    /// The status of the response.
    pub status: Option<u16>,
    /// `complete`, `cancelled` or `broken`.
    pub ending: String,
    /// The kind of the error.
    pub error: Option<String>,
    /// The time in the queue.
    pub queued: Option<f64>,
    /// The time to the first byte of the response.
    pub first_byte: Option<f64>,
    /// The time from the head of the request to the end of the response.
    pub duration: Option<f64>,
    /// The tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// The tokens of the response.
    pub output_tokens: Option<u64>,
    /// The terms of the cost of the chosen backend.
    pub terms: CostTerms,
    /// The number of the choice in `/status/decisions`.
    pub decision: Option<u64>,
    /// The request id.
    pub request_id: Option<String>,
    /// The id of its trace, if it is exported.
    pub trace_id: Option<String>,
}

/// The terms of a cost, in seconds; null if there was no choice by cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct CostTerms {
    /// The time until the model is in memory, and the harm to others.
    pub load: Option<f64>,
    /// The time until a slot is free.
    pub wait: Option<f64>,
    /// The time of the prompt and the response.
    pub work: Option<f64>,
    /// What the prefix cache saves; not positive.
    pub affinity: Option<f64>,
    /// The sum.
    pub total: Option<f64>,
}

/// Totals of the requests that ended in one interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Interval {
    /// When it began, in seconds since 1970.
    pub at: i64,
    /// Requests that ran a model.
    pub requests: u64,
    /// Those of them that failed: broken off, or with a status of 500 or more.
    pub failed: u64,
    /// The tokens of the prompts.
    pub prompt_tokens: u64,
    /// The tokens of the responses.
    pub output_tokens: u64,
    /// The median time to the first byte of streams.
    pub first_byte_p50: Option<f64>,
    /// The 95th percentile of this time.
    pub first_byte_p95: Option<f64>,
}

/// What a client has used since the gateway has started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct ClientRow {
    /// `key:NAME` or `address:ADDRESS`; `others` for the clients beyond the number that is kept.
    pub client: String,
    /// Requests that ran a model.
    pub requests: u64,
    /// Requests that the gateway refused.
    pub refused: u64,
    /// The tokens of the prompts.
    pub prompt_tokens: u64,
    /// The tokens of the responses.
    pub output_tokens: u64,
}

impl Activity {
    /// The document at this time.
    pub fn new(kept: &Kept) -> Self {
        let clients = kept.clients().into_iter().map(|(client, totals)| {
            let Totals {
                requests,
                refused,
                prompt_tokens,
                output_tokens,
            } = totals;
            ClientRow {
                client: client.map_or_else(|| "others".to_owned(), |client| client.to_string()),
                requests,
                refused,
                prompt_tokens,
                output_tokens,
            }
        });
        let intervals = kept.intervals().into_iter().map(|row| Interval {
            at: row.at,
            requests: row.requests,
            failed: row.failed,
            prompt_tokens: row.prompt_tokens,
            output_tokens: row.output_tokens,
            first_byte_p50: row.first_byte(0.5).map(rounded),
            first_byte_p95: row.first_byte(0.95).map(rounded),
        });
        Self {
            requests: kept.requests().iter().map(Into::into).collect(),
            intervals: intervals.collect(),
            interval: seconds(crate::activity::INTERVAL),
            clients: clients.collect(),
        }
    }
}

impl From<&FinishedRequest> for RequestRow {
    fn from(row: &FinishedRequest) -> Self {
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            ended_at: row.ended_at.to_string(),
            route: match &row.route {
                Some(route) => format!("{} {route}", row.method),
                None => row.method.to_string(),
            },
            model: text(&row.model),
            served_model: text(&row.served_model),
            client: row.client.as_ref().map(ToString::to_string),
            backend: text(&row.backend),
            cloud: row.cloud.map(str::to_owned),
            attempts: row.attempts,
            status: row.status,
            ending: row.ending.name().to_owned(),
            error: row.error.map(str::to_owned),
            queued: row.queued.map(seconds),
            first_byte: row.first_byte.map(seconds),
            duration: row.duration.map(seconds),
            prompt_tokens: row.usage.map(|usage| usage.prompt_tokens),
            output_tokens: row.usage.map(|usage| usage.output_tokens),
            terms: row.terms.as_ref().into(),
            decision: row.decision,
            request_id: row.request_id.clone(),
            trace_id: row.trace_id.clone(),
        }
    }
}

impl From<Option<&Terms>> for CostTerms {
    fn from(terms: Option<&Terms>) -> Self {
        let term = |of: fn(&Terms) -> f64| terms.map(|terms| rounded(of(terms)));
        Self {
            load: term(|terms| terms.load),
            wait: term(|terms| terms.wait),
            work: term(|terms| terms.work),
            affinity: term(|terms| terms.affinity),
            total: term(Terms::total),
        }
    }
}
