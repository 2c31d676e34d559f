//! What a request holds of a backend, to the end of its answer.

use http::Extensions;
use llamatower_layers::queue::{Meter, Permit};
use llamatower_layers::usage::UsageReport;

use super::Dispatcher;
use super::member::Place;

/// A place at a backend, given back when it is dropped, with what the request cost.
#[derive(Debug)]
pub struct Slot<S> {
    usage: Option<(Meter, UsageReport)>,
    // The fields that give something back are last: what it cost is noted before.
    held: Held<S>,
}

#[derive(Debug)]
enum Held<S> {
    Queued { permit: Permit<Dispatcher<S>> },
    Unqueued { _place: Place<S> },
}

impl<S> Slot<S> {
    pub(super) fn queued(permit: Permit<Dispatcher<S>>) -> Self {
        Self {
            usage: None,
            held: Held::Queued { permit },
        }
    }

    pub(super) fn unqueued(place: Place<S>) -> Self {
        Self {
            usage: None,
            held: Held::Unqueued { _place: place },
        }
    }

    /// The head of the answer has come; its tokens will be counted.
    pub(super) fn answered(&mut self, answer: &Extensions) {
        if let (Held::Queued { permit }, Some(report)) =
            (&mut self.held, answer.get::<UsageReport>())
        {
            self.usage = Some((permit.meter(), report.clone()));
        }
    }
}

impl<S> Drop for Slot<S> {
    fn drop(&mut self) {
        let Some((meter, report)) = &self.usage else {
            return;
        };
        if let Some(usage) = report.get().and_then(|measured| measured.usage) {
            // A token that is written costs about twice one that is read.
            let cost = usage
                .prompt_tokens
                .saturating_add(usage.output_tokens.saturating_mul(2));
            meter.set(u32::try_from(cost).unwrap_or(u32::MAX));
        }
    }
}
