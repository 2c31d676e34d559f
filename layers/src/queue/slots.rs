//! A fixed number of equal slots.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Dispatch, Line};
use crate::BoxError;

/// A pool of equal slots with a limit for each class.
pub struct SlotPool<C, K> {
    counts: Arc<Mutex<Counts<C>>>,
    keys: PhantomData<fn() -> K>,
}

struct Counts<C> {
    slots: usize,
    per_class: usize,
    in_use: usize,
    by_class: HashMap<C, usize>,
}

impl<C: Clone + Eq + Hash, K> SlotPool<C, K> {
    /// A pool of `slots`.
    pub fn new(slots: NonZeroUsize) -> Self {
        Self {
            counts: Arc::new(Mutex::new(Counts {
                slots: slots.get(),
                per_class: usize::MAX,
                in_use: 0,
                by_class: HashMap::new(),
            })),
            keys: PhantomData,
        }
    }

    /// The maximum number of slots of one class; by default all.
    pub fn with_max_per_class(self, slots: NonZeroUsize) -> Self {
        self.set_max_per_class(slots);
        self
    }

    pub(super) fn set_max_per_class(&self, slots: NonZeroUsize) {
        lock(&self.counts).per_class = slots.get();
    }

    /// A pool with the same limits and no slot in use.
    pub(super) fn with_same_limits<D, L>(other: &SlotPool<D, L>) -> Self {
        let counts = lock(&other.counts);
        Self {
            counts: Arc::new(Mutex::new(Counts {
                slots: counts.slots,
                per_class: counts.per_class,
                in_use: 0,
                by_class: HashMap::new(),
            })),
            keys: PhantomData,
        }
    }

    /// The number of slots in use.
    pub fn in_use(&self) -> usize {
        lock(&self.counts).in_use
    }
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash> Dispatch for SlotPool<C, K> {
    type Class = C;
    type Key = K;
    type Request = ();
    type Slot = PoolSlot<C>;

    fn try_take(&self, class: &C, (): &(), _line: Line) -> Result<Option<PoolSlot<C>>, BoxError> {
        let mut counts = lock(&self.counts);
        let counts = &mut *counts;
        if counts.in_use >= counts.slots {
            return Ok(None);
        }
        let class = match counts.per_class {
            usize::MAX => None,
            most => {
                let held = counts.by_class.entry(class.clone()).or_default();
                if *held >= most {
                    return Ok(None);
                }
                *held += 1;
                Some(class.clone())
            }
        };
        counts.in_use += 1;
        Ok(Some(PoolSlot {
            counts: self.counts.clone(),
            class,
        }))
    }
}

impl<C, K> fmt::Debug for SlotPool<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = lock(&self.counts);
        f.debug_struct("SlotPool")
            .field("slots", &counts.slots)
            .field("in_use", &counts.in_use)
            .finish_non_exhaustive()
    }
}

/// A slot of a [`SlotPool`]. Dropping it releases the slot.
pub struct PoolSlot<C: Eq + Hash> {
    counts: Arc<Mutex<Counts<C>>>,
    /// The class that this slot is counted for, if classes are limited.
    class: Option<C>,
}

impl<C: Eq + Hash> Drop for PoolSlot<C> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.in_use -= 1;
        let Some(class) = &self.class else { return };
        if let Some(held) = counts.by_class.get_mut(class) {
            *held -= 1;
            if *held == 0 {
                counts.by_class.remove(class);
            }
        }
    }
}

impl<C: Eq + Hash> fmt::Debug for PoolSlot<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolSlot").finish_non_exhaustive()
    }
}

fn lock<C>(counts: &Mutex<Counts<C>>) -> MutexGuard<'_, Counts<C>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
