//! The slot that a request holds to the end of its response.

use llamatower_layers::{Record, queue};

use super::Dispatcher;
use super::member::Slot;

/// A slot that a request holds. Dropping it releases the slot and reports the request's cost.
#[derive(Debug)]
pub struct Permit<S> {
    /// The source of the request's cost.
    record: Option<Record>,
    held: Held<S>,
}

#[derive(Debug)]
enum Held<S> {
    /// `None` after drop.
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

    /// The cost of the request, if it was counted.
    fn cost(&self) -> Option<u32> {
        let report = self.record.as_ref()?.usage_report()?;
        let usage = report.get()?.usage?;
        // An output token costs about twice as much as a prompt token.
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
