//! A slot that a request holds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::Dispatch;
use super::machine::Finished;
use super::queue::{Holder, Shared};

/// A slot. Dropping the permit releases the slot and offers it to the next waiter.
pub struct Permit<D: Dispatch> {
    shared: Arc<Shared<D>>,
    /// `None` after drop: the slot is released before the next waiter is searched.
    slot: Option<D::Slot>,
    holder: Holder<D>,
    since: Instant,
    meter: Option<Meter>,
    /// The real cost, if the holder set it.
    cost: Option<u32>,
}

/// The real cost of a request. Set it before the [`Permit`] is dropped.
///
/// A clone can go to the code that learns the token counts, for example at the end of a stream.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// Sets the real cost, in the unit of [`Entry::with_cost`](super::Entry::with_cost).
    pub fn set(&self, tokens: u32) {
        // 0 means: not set.
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
        self.slot.as_ref().expect("only drop takes it")
    }

    /// The class of the request.
    pub fn class(&self) -> &D::Class {
        &self.holder.class
    }

    /// The key of the request.
    pub fn key(&self) -> &D::Key {
        &self.holder.key
    }

    /// A meter for the real cost. Unless it is set, the estimated cost counts.
    pub fn meter(&mut self) -> Meter {
        self.meter.get_or_insert_default().clone()
    }

    /// Sets the meter from which drop reads the real cost.
    pub fn set_meter(&mut self, meter: Meter) {
        self.meter = Some(meter);
    }

    /// Releases the slot with the real cost, in the unit of
    /// [`Entry::with_cost`](super::Entry::with_cost).
    pub fn settle(mut self, tokens: u32) {
        self.cost = Some(tokens);
    }

    /// Releases a slot that was not used: its cost is 0, and it does not count for the service
    /// time.
    pub fn unused(mut self) {
        self.give_back(Finished::unused());
    }

    fn give_back(&mut self, finished: Finished) {
        if let Some(slot) = self.slot.take() {
            drop(slot);
            self.shared.finish(&self.holder, finished);
        }
    }
}

impl<D: Dispatch> Drop for Permit<D> {
    fn drop(&mut self) {
        let by_meter = || self.meter.as_ref().and_then(Meter::get);
        let mut finished = Finished::after(self.since.elapsed());
        finished.cost = self.cost.or_else(by_meter);
        self.give_back(finished);
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
