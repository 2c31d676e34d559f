//! The time of a wait, in the record of its request.

use std::time::Duration;

use http::request::Parts;
use llamatower_layers::{Outcome, Record};
use tokio::time::Instant;

/// Measures a wait until it is dropped: when the request has what it waited for, the wait has failed,
/// or nobody waits for the answer any more.
pub struct WaitTimer {
    record: Option<Record>,
    since: Instant,
    add: fn(&mut Outcome, Duration),
}

impl WaitTimer {
    /// Measures a wait that has begun at this time; `add` adds the time to the record.
    pub(super) fn since(since: Instant, request: &Parts, add: fn(&mut Outcome, Duration)) -> Self {
        let record = Record::of(&request.extensions).cloned();
        Self { record, since, add }
    }
}

impl Drop for WaitTimer {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
            let time = self.since.elapsed();
            record.update(|outcome| (self.add)(outcome, time));
        }
    }
}
