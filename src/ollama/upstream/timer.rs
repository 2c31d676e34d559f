//! The time of an attempt, in the record of its request.

use std::future::Future;

use http::Extensions;
use llamatower_layers::Record;
use tokio::time::Instant;

/// Measures an attempt until its answer's head, or until it is dropped.
pub(super) struct AttemptTimer {
    /// A request of the gateway itself has none.
    of: Option<(Record, Instant)>,
}

impl AttemptTimer {
    /// Starts to measure.
    pub(super) fn start(request: &Extensions) -> Self {
        let record = Record::of(request).cloned();
        Self {
            of: record.map(|record| (record, Instant::now())),
        }
    }

    /// Measures until this future is ready.
    pub(super) async fn until<F: Future>(self, answer: F) -> F::Output {
        let answer = answer.await;
        drop(self);
        answer
    }
}

impl Drop for AttemptTimer {
    fn drop(&mut self) {
        if let Some((record, sent)) = self.of.take() {
            let now = Instant::now();
            record.update(|outcome| outcome.attempted(sent, now));
        }
    }
}
