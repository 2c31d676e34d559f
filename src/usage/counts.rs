//! What is counted of a request.

use std::time::Duration;

use llamatower_layers::Outcome;
use llamatower_layers::usage::expected_text_tokens;
use serde::{Deserialize, Serialize};

use crate::activity::{has_failed, was_refused};
use crate::cloud;
use crate::state::Counts;

/// The counts of requests that ran a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UsageCounts {
    /// All requests, also those that were refused or failed.
    pub requests: u64,
    /// Requests that the gateway refused before a server was asked: a limit, a full queue, a wrong key.
    pub refused: u64,
    /// Requests that were broken off, or whose response had a status of 500 or more.
    pub failed: u64,
    /// The tokens of prompts, as counted by the servers.
    pub input_tokens: u64,
    /// The tokens of responses, as counted by the servers.
    pub output_tokens: u64,
    /// Requests for whose response the server sent no counts, because it ended before or has none. Their
    /// tokens are estimated, as for token limits: a quarter of the body's bytes, and one for each line of
    /// the response. A request without a prompt, which loads or unloads a model, has no tokens.
    pub estimated: u64,
    /// The time from the head of a request to the end of its response, without the time in the queue,
    /// of requests that were sent to a server; in seconds.
    pub seconds: f64,
    /// Of these requests, those that the cloud service has answered, or worked for until the client
    /// disconnected.
    pub cloud_requests: u64,
    /// The tokens of their prompts.
    pub cloud_input_tokens: u64,
    /// The tokens of their responses.
    pub cloud_output_tokens: u64,
}

impl UsageCounts {
    /// Of one request that has ended.
    pub(super) fn of(outcome: &Outcome) -> Self {
        let (input_tokens, output_tokens, is_estimate) = tokens(outcome);
        let is_cloud = cloud::has_worked_for(outcome);
        let of_cloud = |number: u64| if is_cloud { number } else { 0 };
        Self {
            requests: 1,
            refused: was_refused(outcome.attempts, outcome.error).into(),
            failed: has_failed(outcome.ending, outcome.status).into(),
            input_tokens,
            output_tokens,
            estimated: is_estimate.into(),
            seconds: time(outcome).as_secs_f64(),
            cloud_requests: of_cloud(1),
            cloud_input_tokens: of_cloud(input_tokens),
            cloud_output_tokens: of_cloud(output_tokens),
        }
    }

    /// For the file, in which numbers are whole.
    pub(super) fn to_array(self) -> Counts {
        [
            self.requests,
            self.refused,
            self.failed,
            self.input_tokens,
            self.output_tokens,
            self.estimated,
            // Microseconds; the conversion saturates.
            (self.seconds * 1e6).round() as u64,
            self.cloud_requests,
            self.cloud_input_tokens,
            self.cloud_output_tokens,
        ]
    }

    /// Of the numbers in the file.
    pub fn of_array(counts: &Counts) -> Self {
        let [
            requests,
            refused,
            failed,
            input_tokens,
            output_tokens,
            estimated,
            micros,
            cloud_requests,
            cloud_input_tokens,
            cloud_output_tokens,
        ] = *counts;
        Self {
            requests,
            refused,
            failed,
            input_tokens,
            output_tokens,
            estimated,
            seconds: micros as f64 / 1e6,
            cloud_requests,
            cloud_input_tokens,
            cloud_output_tokens,
        }
    }
}

/// The tokens of the prompt and of the response, and whether they are an estimate.
fn tokens(outcome: &Outcome) -> (u64, u64, bool) {
    match (outcome.usage, outcome.measured()) {
        (Some(usage), _) => (usage.prompt_tokens, usage.output_tokens, false),
        // The answer to a load or an unload has no counts.
        (None, Some(_)) if outcome.has_no_prompt => (0, 0, false),
        // The response ended before its counts, or has none.
        (None, Some(measured)) => {
            let prompt = expected_text_tokens(outcome.prompt_bytes.unwrap_or(0));
            (prompt, measured.items, true)
        }
        // A server has worked until the client disconnected, or until a time-out.
        (None, None) if outcome.unanswered > 0 && !outcome.has_no_prompt => (
            expected_text_tokens(outcome.prompt_bytes.unwrap_or(0)),
            0,
            true,
        ),
        (None, None) => (0, 0, false),
    }
}

/// The time that servers worked on the request.
fn time(outcome: &Outcome) -> Duration {
    let duration = outcome.duration.filter(|_| outcome.attempts > 0);
    let duration = duration.unwrap_or_default();
    duration.saturating_sub(outcome.queued.unwrap_or_default())
}
