//! What the gateway remembers of the requests that have ended: the last ones, totals of the last
//! minutes, and totals of each client. It is bounded, in memory only, and for operators.
//!
//! Requests that run a model are kept, and those that manage models. Lists are not: editors poll
//! them.

mod clients;
mod intervals;
mod request;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use llamatower_layers::{Observer, Operation, Outcome};

pub use clients::Totals;
pub use intervals::{INTERVAL, IntervalTotals};
pub use request::FinishedRequest;
pub(crate) use request::{has_failed, was_refused};

use crate::clients::Client;
use clients::Clients;
use intervals::Intervals;

/// The number of requests that are kept.
const REQUESTS: usize = 100;

/// The requests that have ended. It is an [`Observer`] of outcomes.
#[derive(Debug, Default)]
pub struct Activity {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    requests: VecDeque<FinishedRequest>,
    intervals: Intervals,
    clients: Clients,
}

impl Activity {
    /// The last requests, the latest first.
    pub fn requests(&self) -> Vec<FinishedRequest> {
        self.kept().requests.iter().rev().cloned().collect()
    }

    /// The totals of the last 15 minutes, the oldest interval first. The current interval is not
    /// complete and is left out.
    pub fn intervals(&self) -> Vec<IntervalTotals> {
        self.kept().intervals.complete(Timestamp::now().as_second())
    }

    /// The totals of each client, the largest number of tokens first; `None` are the clients beyond
    /// the number that is kept.
    pub fn clients(&self) -> Vec<(Option<Client>, Totals)> {
        self.kept().clients.by_tokens()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a request that has ended now.
    pub(crate) fn keep(&self, outcome: &Outcome, now: Timestamp) {
        let Some(operation) = outcome.operation() else {
            return;
        };
        let runs_model = operation.is_inference();
        if !runs_model && !is_shown(operation) {
            return;
        }
        let request = FinishedRequest::of(outcome, now);
        let mut kept = self.kept();
        if runs_model {
            kept.intervals.add(&request, outcome.stream);
            kept.clients.add(&request);
        }
        if kept.requests.len() >= REQUESTS {
            kept.requests.pop_front();
        }
        kept.requests.push_back(request);
    }
}

impl Observer for Activity {
    fn finished(&self, outcome: &Outcome) {
        self.keep(outcome, Timestamp::now());
    }
}

/// Whether requests of this operation are kept although they run no model.
fn is_shown(operation: Operation) -> bool {
    operation.is_management() && operation != Operation::Blob
}

#[cfg(test)]
mod tests;
