//! The requests that wait for a slot, for operators.

use std::time::Duration;

use http::StatusCode;
use llamatower_layers::queue::Priority;
use llamatower_layers::{Fail, Failure, ModelName, Side};

use super::Fleet;
use crate::clients::Client;

/// A request that waits for a slot.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its number in the queue.
    pub id: u64,
    /// The model, if the request names one.
    pub model: Option<ModelName>,
    /// The client.
    pub client: Option<Client>,
    /// The priority.
    pub priority: Priority,
    /// The time since it arrived.
    pub waited: Duration,
    /// The number of requests that get a slot before it, if none enters and none leaves.
    pub ahead: usize,
    /// The expected wait from now; `None` if it is not known.
    pub expected_wait: Option<Duration>,
}

/// An operator has cancelled the request while it waited for a slot. It was not sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operator cancelled this request while it waited in the queue")]
pub struct CancelledByOperator;

impl Fail for CancelledByOperator {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "cancelled_by_operator"
    }
    fn is_final(&self) -> bool {
        true
    }
}

impl<S> Fleet<S> {
    /// The `most` requests that have waited longest, the longest wait first.
    pub fn waiting(&self, most: usize) -> Vec<Waiting> {
        let waiters = self.queue.waiters(most).into_iter();
        let rows = waiters.map(|row| Waiting {
            id: row.id,
            model: row.class.model,
            client: row.key,
            priority: row.priority,
            waited: row.waited,
            ahead: row.position.ahead,
            expected_wait: row.position.expected_wait,
        });
        rows.collect()
    }

    /// Ends the wait of a request with [`CancelledByOperator`], by its number. Returns whether it
    /// was waiting.
    pub fn cancel_waiting(&self, id: u64) -> bool {
        let was_waiting = self.queue.cancel(id, Failure::from(CancelledByOperator));
        if was_waiting {
            tracing::warn!(id, "an operator has cancelled a waiting request");
        }
        was_waiting
    }
}
