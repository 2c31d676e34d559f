//! A slot that was handed out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Dispatch;
use super::queue::{Holder, Shared};

/// A slot, held until this is dropped. Then it is offered to the next.
pub struct Permit<D: Dispatch> {
    shared: Arc<Shared<D>>,
    /// Taken when it is dropped: the slot goes back before the next is looked for.
    slot: Option<D::Slot>,
    holder: Holder<D>,
    since: Instant,
    meter: Option<Meter>,
    /// The real cost, where who holds this knows it itself.
    cost: Option<u32>,
}

/// What a request cost in truth; to be set before the [`Permit`] is dropped.
///
/// It can be given to whoever learns of the counts, at the end of a stream say.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// Notes the cost, in the unit of [`Entry::with_cost`](super::Entry::with_cost).
    pub fn set(&self, tokens: u32) {
        // Zero is for what was not set.
        self.0.store(u64::from(tokens) + 1, Ordering::Relaxed);
    }

    fn get(&self) -> Option<u32> {
        let tokens = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        u32::try_from(tokens).ok()
    }
}

impl<D: Dispatch> Permit<D> {
    pub(super) fn new(
        shared: Arc<Shared<D>>,
        slot: D::Slot,
        holder: Holder<D>,
        since: Instant,
    ) -> Self {
        Self {
            shared,
            slot: Some(slot),
            holder,
            since,
            meter: None,
            cost: None,
        }
    }

    /// The slot.
    pub fn slot(&self) -> &D::Slot {
        self.slot.as_ref().expect("it is taken by drop alone")
    }

    /// Where to note what the request cost in truth. Unless it is set, the estimate stands.
    pub fn meter(&mut self) -> Meter {
        self.meter.get_or_insert_default().clone()
    }

    /// Notes whom to ask for what the request cost in truth.
    pub fn set_meter(&mut self, meter: Meter) {
        self.meter = Some(meter);
    }

    /// Gives the slot back with the real cost, in the unit of
    /// [`Entry::with_cost`](super::Entry::with_cost).
    pub fn settle(mut self, tokens: u32) {
        self.cost = Some(tokens);
    }

    /// Gives back a slot that was not used: it cost nothing and says nothing of the service time.
    pub fn unused(mut self) {
        self.give_back(None, self.holder.charge.correction(0));
    }

    fn give_back(&mut self, held: Option<Duration>, correction: f64) {
        if let Some(slot) = self.slot.take() {
            drop(slot);
            self.shared.finish(&self.holder, held, correction);
        }
    }
}

impl<D: Dispatch> Drop for Permit<D> {
    fn drop(&mut self) {
        let by_meter = || self.meter.as_ref().and_then(Meter::get);
        let cost = self.cost.or_else(by_meter);
        let correction = cost.map_or(0.0, |tokens| self.holder.charge.correction(tokens));
        self.give_back(Some(self.since.elapsed()), correction);
    }
}

impl<D: Dispatch> fmt::Debug for Permit<D>
where
    D::Slot: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("slot", &self.slot)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}
