//! What a request holds of a backend, to the end of its answer.

use http::Extensions;
use llamatower_layers::queue::Permit;
use llamatower_layers::usage::UsageReport;

use super::Dispatcher;
use super::member::Place;

/// A place at a backend, given back when it is dropped, with what the request cost.
#[derive(Debug)]
pub struct Slot<S> {
    usage: Option<UsageReport>,
    held: Held<S>,
}

#[derive(Debug)]
enum Held<S> {
    /// Taken when it is dropped.
    Queued {
        permit: Option<Permit<Dispatcher<S>>>,
    },
    Unqueued {
        _place: Place<S>,
    },
}

impl<S> Slot<S> {
    pub(super) fn queued(permit: Permit<Dispatcher<S>>) -> Self {
        Self {
            usage: None,
            held: Held::Queued {
                permit: Some(permit),
            },
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
        self.usage = answer.get::<UsageReport>().cloned();
    }

    /// What the request cost, as far as that was counted.
    fn cost(&self) -> Option<u32> {
        let usage = self.usage.as_ref()?.get()?.usage?;
        // A token that is written costs about twice one that is read.
        let cost = usage
            .prompt_tokens
            .saturating_add(usage.output_tokens.saturating_mul(2));
        Some(u32::try_from(cost).unwrap_or(u32::MAX))
    }
}

impl<S> Drop for Slot<S> {
    fn drop(&mut self) {
        let Some(cost) = self.cost() else { return };
        if let Held::Queued { permit } = &mut self.held
            && let Some(permit) = permit.take()
        {
            permit.settle(cost);
        }
    }
}
