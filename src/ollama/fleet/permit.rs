//! What a request holds of a backend, to the end of its answer.

use llamatower_layers::{Record, queue};

use super::Dispatcher;
use super::member::Slot;

/// A slot that a request holds, given back when it is dropped, with what the request cost.
#[derive(Debug)]
pub struct Permit<S> {
    /// Tells what the request cost.
    record: Option<Record>,
    held: Held<S>,
}

#[derive(Debug)]
enum Held<S> {
    /// Taken when it is dropped.
    Queued {
        permit: Option<queue::Permit<Dispatcher<S>>>,
    },
    Unqueued {
        _slot: Slot<S>,
    },
}

impl<S> Permit<S> {
    pub(super) fn queued(permit: queue::Permit<Dispatcher<S>>, record: Option<Record>) -> Self {
        Self {
            record,
            held: Held::Queued {
                permit: Some(permit),
            },
        }
    }

    pub(super) fn unqueued(slot: Slot<S>) -> Self {
        Self {
            record: None,
            held: Held::Unqueued { _slot: slot },
        }
    }

    /// What the request cost, as far as that was counted.
    fn cost(&self) -> Option<u32> {
        let report = self.record.as_ref()?.usage_report()?;
        let usage = report.get()?.usage?;
        // A token that is written costs about twice one that is read.
        let cost = usage
            .prompt_tokens
            .saturating_add(usage.output_tokens.saturating_mul(2));
        Some(u32::try_from(cost).unwrap_or(u32::MAX))
    }
}

impl<S> Drop for Permit<S> {
    fn drop(&mut self) {
        let Some(cost) = self.cost() else { return };
        if let Held::Queued { permit } = &mut self.held
            && let Some(permit) = permit.take()
        {
            permit.settle(cost);
        }
    }
}
