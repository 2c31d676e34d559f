//! The time of an attempt, in the record of its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Extensions;
use llamatower_layers::Record;
use tokio::time::Instant;

/// Measures an attempt until it is dropped: when the head of the answer is there, the attempt has
/// failed, or nobody waits for it any more. In the last case a server may have worked for it
/// ([`Outcome::unanswered`](llamatower_layers::Outcome::unanswered)).
pub(super) struct AttemptTimer {
    /// A request of the gateway itself has none.
    of: Option<(Record, Instant)>,
    state: State,
}

enum State {
    /// No server has got the request, or there is an answer or an error.
    Settled,
    /// A server has got the request.
    Sent,
    /// A server has got the request if this is set.
    SentIf(Arc<AtomicBool>),
}

impl AttemptTimer {
    /// Starts to measure.
    pub(super) fn start(request: &Extensions) -> Self {
        let record = Record::of(request).cloned();
        Self {
            of: record.map(|record| (record, Instant::now())),
            state: State::Settled,
        }
    }

    /// The request is given to an open connection.
    pub(super) fn sent(&mut self) {
        self.state = State::Sent;
    }

    /// The request will be given to a connection, which then sets this mark.
    pub(super) fn sends(&mut self) -> Arc<AtomicBool> {
        let mark = Arc::<AtomicBool>::default();
        self.state = State::SentIf(mark.clone());
        mark
    }

    /// The head of the answer is there, or the attempt has failed.
    pub(super) fn settle(&mut self) {
        self.state = State::Settled;
    }
}

impl Drop for AttemptTimer {
    fn drop(&mut self) {
        if let Some((record, sent)) = self.of.take() {
            let now = Instant::now();
            let is_unanswered = match &self.state {
                State::Settled => false,
                State::Sent => true,
                State::SentIf(mark) => mark.load(Ordering::Acquire),
            };
            record.update(|outcome| {
                outcome.attempted(sent, now);
                outcome.unanswered += u32::from(is_unanswered);
            });
        }
    }
}
