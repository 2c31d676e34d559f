//! The time of an attempt, in the record of its request.

use http::Extensions;
use llamatower_layers::Record;
use tokio::time::Instant;

/// Measures an attempt until it is dropped: when the head of the answer is there, the attempt has
/// failed, or nobody waits for it any more.
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
}

impl Drop for AttemptTimer {
    fn drop(&mut self) {
        if let Some((record, sent)) = self.of.take() {
            let now = Instant::now();
            record.update(|outcome| outcome.attempted(sent, now));
        }
    }
}
