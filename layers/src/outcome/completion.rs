//! Completes a record exactly once.

use std::fmt;
use std::sync::Arc;

use http::Response;
use http_body::Body;
use tokio::time::Instant;

use super::{Ending, Observer, Outcome, Record};

/// Completes the record at the end of the response, or as cancelled if it is dropped before.
pub(super) struct Completion {
    record: Record,
    observer: Arc<dyn Observer>,
    is_done: bool,
}

impl Completion {
    pub(super) fn open(outcome: Outcome, observer: Arc<dyn Observer>) -> Self {
        let record = Record::new(outcome);
        record.update(|outcome| observer.started(outcome));
        Self {
            record,
            observer,
            is_done: false,
        }
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// The response head has arrived.
    pub(super) fn head<B: Body>(&mut self, answer: &Response<B>) {
        let now = Instant::now();
        let streams = answer.body().size_hint().exact().is_none();
        self.record.update(|outcome| {
            outcome.status = Some(answer.status());
            outcome.time_to_first_byte = Some(now.duration_since(outcome.started));
            if streams {
                outcome.leave_head();
            }
        });
    }

    /// The request failed, and no inner layer has set the error.
    pub(super) fn fail(&mut self) {
        self.record.update(|outcome| {
            outcome.error.get_or_insert("unclean_end");
        });
        self.finish(Ending::Broken);
    }

    pub(super) fn finish(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.is_done, true) {
            return;
        }
        let now = Instant::now();
        // The extensions are taken out, so that a span ends here even if a clone of the record is
        // kept elsewhere. They are dropped after the lock was released, because their drop can run
        // any code.
        let _extensions = self.record.update(|outcome| {
            outcome.complete(ending, now);
            self.observer.finished(outcome);
            std::mem::take(&mut outcome.extensions)
        });
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.finish(Ending::Cancelled);
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}
