#![allow(clippy::unwrap_used)]

mod bounds;
mod exchange;
mod fairness;
mod inspect;
mod interleavings;
mod layer;
mod order;
mod passing;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::{BoxError, Fail, Failure};

pub(super) type Name = &'static str;

/// Slots of each class; the test sets their number.
#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Mutex<HashMap<Name, Count>>>);

#[derive(Clone, Copy, Default)]
struct Count {
    slots: usize,
    taken: usize,
    is_gone: bool,
    /// The slots that are told to the queue, also those that cannot be taken yet.
    told: Option<usize>,
    /// The number of waiters, as reported by the queue.
    waiting: usize,
    /// The last line in which a slot was asked for.
    line: Option<Line>,
}

/// A slot of a class. Dropping it releases the slot.
pub(super) struct Slot(Slots, Name);

impl Slots {
    pub(super) fn of(counts: &[(Name, usize)]) -> Self {
        let slots = Self::default();
        for &(class, count) in counts {
            slots.set(class, count);
        }
        slots
    }

    pub(super) fn set(&self, class: Name, slots: usize) {
        self.0.lock().unwrap().entry(class).or_default().slots = slots;
    }

    pub(super) fn tell(&self, class: Name, slots: usize) {
        self.0.lock().unwrap().entry(class).or_default().told = Some(slots);
    }

    pub(super) fn remove(&self, class: Name) {
        self.0.lock().unwrap().entry(class).or_default().is_gone = true;
    }

    pub(super) fn taken(&self, class: Name) -> usize {
        self.0.lock().unwrap()[class].taken
    }

    pub(super) fn waiting(&self, class: Name) -> usize {
        let counts = self.0.lock().unwrap();
        counts.get(class).map_or(0, |count| count.waiting)
    }

    pub(super) fn last_line(&self, class: Name) -> Line {
        self.0.lock().unwrap()[class].line.unwrap()
    }

    pub(super) fn all_taken(&self) -> usize {
        self.0.lock().unwrap().values().map(|of| of.taken).sum()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().get_mut(self.1).unwrap().taken -= 1;
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.1).finish()
    }
}

#[derive(Debug)]
struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gone")
    }
}

impl std::error::Error for Gone {}

impl Dispatch for Slots {
    type Class = Name;
    type Key = Name;
    type Request = ();
    type Slot = Slot;

    fn try_take(&self, class: &Name, (): &(), line: Line) -> Result<Option<Slot>, BoxError> {
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(class).or_default();
        let is_new = line.waiting == 1 && count.waiting == 0;
        assert!(is_new || line.waiting == count.waiting, "{line:?}");
        count.line = Some(line);
        if count.is_gone {
            return Err(Gone.into());
        }
        if count.taken >= count.slots {
            return Ok(None);
        }
        count.taken += 1;
        Ok(Some(Slot(self.clone(), class)))
    }

    fn slots(&self, class: &Name) -> Option<usize> {
        self.0.lock().unwrap().get(class)?.told
    }

    fn waiting_changed(&self, class: &Name, waiting: usize) {
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(class).or_default();
        assert_eq!(count.waiting.abs_diff(waiting), 1, "one call a change");
        count.waiting = waiting;
    }
}

pub(super) type TestQueue = Queue<Slots>;
pub(super) type TestTicket = std::pin::Pin<Box<Ticket<Slots>>>;

pub(super) fn queue(counts: &[(Name, usize)]) -> TestQueue {
    Queue::new(Slots::of(counts))
}

pub(super) fn entry(key: Name) -> Entry<Name, ()> {
    Entry::new(key, ())
}

pub(super) fn enter(queue: &TestQueue, class: Name, entry: Entry<Name, ()>) -> TestTicket {
    Box::pin(queue.enter(class, entry).unwrap())
}

/// Takes a free slot.
pub(super) fn hold(queue: &TestQueue, class: Name) -> Permit<Slots> {
    let ticket = queue.enter(class, entry("holder")).unwrap();
    ticket.now_or_never().expect("a slot is free").unwrap()
}

pub(super) fn is_served(ticket: &mut TestTicket) -> Option<Permit<Slots>> {
    ticket.as_mut().now_or_never().map(Result::unwrap)
}

/// The order in which waiters are served when slots are released one at a time.
pub(super) async fn served_in_turn(
    first: Permit<Slots>,
    mut tickets: Vec<(&'static str, TestTicket)>,
    after_each: Duration,
) -> Vec<&'static str> {
    let mut order = Vec::new();
    let mut held = first;
    while !tickets.is_empty() {
        tokio::time::advance(after_each).await;
        drop(held);
        let next = tickets
            .iter_mut()
            .enumerate()
            .find_map(|(at, (_, ticket))| Some((at, is_served(ticket)?)));
        let (at, permit) = next.expect("a waiter is served");
        order.push(tickets.remove(at).0);
        held = permit;
    }
    order
}

pub(super) fn cause<E: Fail + Copy>(error: &BoxError) -> E {
    *Failure::find(&**error).unwrap().caused_by::<E>().unwrap()
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
