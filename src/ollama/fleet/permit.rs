//! The slot that a request holds to the end of its response.

use llamatower_layers::usage::Usage;
use llamatower_layers::{Record, queue};

use super::Dispatcher;
use super::member::Slot;
use super::policy::{Phases, Report};

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

    /// The usage of the request, if it was counted.
    fn usage(&self) -> Option<Usage> {
        let report = self.record.as_ref()?.usage_report()?;
        report.get()?.usage
    }
}

impl<S> Drop for Permit<S> {
    fn drop(&mut self) {
        let Some(usage) = self.usage() else { return };
        if let Held::Queued { permit } = &mut self.held
            && let Some(permit) = permit.take()
        {
            if let Some(flight) = permit.slot().flight() {
                flight.complete(report(usage));
            }
            permit.settle(cost(usage));
        }
    }
}

/// The cost of a request in tokens.
fn cost(usage: Usage) -> u32 {
    // An output token costs about twice as much as a prompt token.
    let output = usage.output_tokens.saturating_mul(2);
    u32::try_from(usage.prompt_tokens.saturating_add(output)).unwrap_or(u32::MAX)
}

/// What the policy learns from a response.
fn report(usage: Usage) -> Report {
    Report {
        prompt_tokens: usage.prompt_tokens,
        output_tokens: usage.output_tokens,
        phases: usage.timings.map(|timings| Phases {
            load: timings.load,
            prompt: timings.prompt,
            output: timings.output,
            total: timings.total,
        }),
    }
}
