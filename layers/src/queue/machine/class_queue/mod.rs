//! The queue of one class: which waiter is next. This code gets the time as an argument and knows
//! no wakers.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

use super::account::Account;
use super::{Charge, Finished, Position, Waiter};
use crate::queue::Priority;

mod exchange;
mod head;
mod service_time;
mod standing;
#[cfg(test)]
mod tests;

pub(in crate::queue::machine) use head::Head;
use head::{Passed, Rank};
use service_time::ServiceTime;
pub(in crate::queue::machine) use standing::OwnWaiters;

/// The number of idle keys (no waiter, no slot) whose counters are kept.
const MAX_IDLE_KEYS: usize = 1024;

/// The waiters of one class, and the service that each key received.
#[derive(Debug)]
pub(in crate::queue::machine) struct ClassQueue<K, R> {
    key_queues: Vec<KeyQueue<K, R>>,
    idle: HashMap<K, Account>,
    /// The number of idle keys at which the next clean-up runs.
    sweep_at: usize,
    waiting: usize,
    in_flight: usize,
    /// The slots of the class, held or free; `None` if they are not told.
    slots: Option<usize>,
    /// The time that a slot is held.
    service: ServiceTime,
    /// The highest settled counter at which a request was served. Keys start here if no request
    /// waits.
    floor: f64,
    /// The counters are on the scale of the processes that exchange service.
    has_joined: bool,
}

/// The waiters of one key, by priority. There is at least one.
#[derive(Debug)]
struct KeyQueue<K, R> {
    key: K,
    account: Account,
    flows: [Flow<R>; Priority::COUNT],
}

/// The waiters of one key with one priority.
#[derive(Debug)]
struct Flow<R> {
    /// Ordered by arrival, so that a retried request keeps its position.
    waiters: BTreeMap<(Instant, u64), Waiter<R>>,
    /// The time when a waiter of this flow was last served.
    served: Option<Instant>,
    /// The first waiter, if one behind it was served in its place.
    passed: Option<Passed>,
}

impl<K, R> KeyQueue<K, R> {
    fn waiting(&self) -> usize {
        self.flows.iter().map(|flow| flow.waiters.len()).sum()
    }
}

impl<R> Flow<R> {
    fn empty() -> Self {
        Self {
            waiters: BTreeMap::new(),
            served: None,
            passed: None,
        }
    }
}

/// The current time, and the wait after which a waiter rises by one priority.
#[derive(Clone, Copy, Debug)]
pub(in crate::queue::machine) struct Ageing {
    pub(in crate::queue::machine) now: Instant,
    pub(in crate::queue::machine) step: Option<Duration>,
}

impl Ageing {
    /// The level of a request of this priority that ages since this time.
    pub(in crate::queue::machine) fn level(self, priority: Priority, since: Instant) -> usize {
        self.level_of(priority as usize, since)
    }

    fn level_of(self, priority: usize, since: Instant) -> usize {
        (priority + 1).saturating_sub(self.steps(since))
    }

    fn steps(self, since: Instant) -> usize {
        let waited = self.now.saturating_duration_since(since);
        let Some(step) = self.step else { return 0 };
        (1..=Priority::COUNT as u32)
            .take_while(|steps| waited >= step.saturating_mul(*steps))
            .count()
    }
}

impl<K: Clone + Eq + Hash, R> ClassQueue<K, R> {
    pub(in crate::queue::machine) fn new() -> Self {
        Self {
            key_queues: Vec::new(),
            idle: HashMap::default(),
            sweep_at: 64,
            waiting: 0,
            in_flight: 0,
            slots: None,
            service: ServiceTime::default(),
            floor: 0.0,
            has_joined: false,
        }
    }

    pub(in crate::queue::machine) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(in crate::queue::machine) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(in crate::queue::machine) fn service_time(&self) -> Option<Duration> {
        self.service.mean().map(Duration::from_secs_f64)
    }

    pub(in crate::queue::machine) fn set_slots(&mut self, slots: Option<usize>) {
        self.slots = slots;
    }

    /// The number of requests that are served at a time. While a slot cannot be used yet, because a
    /// model is being loaded, fewer are in flight.
    pub(in crate::queue::machine) fn capacity(&self) -> usize {
        self.slots.unwrap_or_default().max(self.in_flight).max(1)
    }

    /// The number of keys with waiters.
    pub(in crate::queue::machine) fn keys_waiting(&self) -> usize {
        self.key_queues.len()
    }

    /// The number of known keys, with waiters or without.
    #[cfg(test)]
    pub(in crate::queue::machine) fn keys_known(&self) -> usize {
        self.key_queues.len() + self.idle.len()
    }

    pub(in crate::queue::machine) fn waiting_of(&self, key: &K) -> usize {
        let key_queue = self
            .key_queues
            .iter()
            .find(|key_queue| key_queue.key == *key);
        key_queue.map_or(0, KeyQueue::waiting)
    }

    /// The number of waiters with the key of this one, itself included.
    pub(in crate::queue::machine) fn waiting_beside(&self, head: Head) -> usize {
        self.key_queues
            .get(head.key_queue)
            .map_or(0, KeyQueue::waiting)
    }

    /// The arrival of the waiter that waits longest.
    pub(in crate::queue::machine) fn oldest(&self) -> Option<Instant> {
        let flows = self
            .key_queues
            .iter()
            .flat_map(|key_queue| &key_queue.flows);
        let heads = flows.filter_map(|flow| flow.waiters.first_key_value());
        heads.map(|((arrival, _), _)| *arrival).min()
    }

    /// The positions of all waiters, in no order.
    pub(in crate::queue::machine) fn positions(&self) -> impl Iterator<Item = Position<K>> {
        self.key_queues.iter().flat_map(|key_queue| {
            Priority::ALL.into_iter().flat_map(move |priority| {
                let waiters = key_queue.flows[priority as usize].waiters.keys();
                waiters.map(move |&(arrival, id)| Position {
                    key: key_queue.key.clone(),
                    priority,
                    arrival,
                    id,
                })
            })
        })
    }

    /// The settled counter at which a key starts that has no waiter of this priority: the least of
    /// the keys that have one. It cannot save up service that it did not request.
    ///
    /// Estimates do not count: with them, it would stay behind the others' counters when their
    /// requests in flight end with less. Other priorities do not count: a key that waits behind
    /// them keeps a low counter, from which no other key may start among those that are served.
    fn start(&self, priority: usize) -> f64 {
        let waits = |key_queue: &&KeyQueue<K, R>| !key_queue.flows[priority].waiters.is_empty();
        let waiting = self.key_queues.iter().filter(waits);
        let settled = waiting.map(|key_queue| key_queue.account.settled());
        settled.min_by(f64::total_cmp).unwrap_or(self.floor)
    }

    /// Counts a request that got a slot without waiting.
    pub(in crate::queue::machine) fn admit(&mut self, key: &K, charge: Charge) {
        debug_assert!(self.key_queues.is_empty());
        let floor = self.floor;
        let serve = |account: &mut Account| {
            account.lift(floor);
            account.serve(charge);
            account.settled()
        };
        self.floor = match self.idle.get_mut(key) {
            Some(account) => serve(account),
            None => {
                self.forget_idle_keys();
                serve(self.idle.entry(key.clone()).or_default())
            }
        };
        self.in_flight += 1;
    }

    pub(in crate::queue::machine) fn push(
        &mut self,
        position: &Position<K>,
        charge: Charge,
        request: R,
    ) {
        let priority = position.priority as usize;
        let start = self.start(priority);
        let at = self
            .key_queues
            .iter()
            .position(|key_queue| key_queue.key == position.key);
        let at = at.unwrap_or_else(|| {
            self.key_queues.push(KeyQueue {
                key: position.key.clone(),
                account: self.idle.remove(&position.key).unwrap_or_default(),
                flows: std::array::from_fn(|_| Flow::empty()),
            });
            self.key_queues.len() - 1
        });
        let key_queue = &mut self.key_queues[at];
        let flow = &mut key_queue.flows[priority];
        if flow.waiters.is_empty() {
            key_queue.account.lift(start);
        }
        let id = position.id;
        flow.waiters.insert(
            (position.arrival, id),
            Waiter {
                id,
                charge,
                request,
            },
        );
        self.waiting += 1;
    }

    pub(in crate::queue::machine) fn remove(
        &mut self,
        position: &Position<K>,
    ) -> Option<Waiter<R>> {
        let at = self
            .key_queues
            .iter()
            .position(|key_queue| key_queue.key == position.key)?;
        let flow = &mut self.key_queues[at].flows[position.priority as usize];
        let waiter = flow.waiters.remove(&(position.arrival, position.id))?;
        self.waiting -= 1;
        self.close_if_empty(at);
        Some(waiter)
    }

    /// Removes a waiter because it got a slot.
    pub(in crate::queue::machine) fn serve(
        &mut self,
        head: Head,
        now: Instant,
    ) -> Option<Waiter<R>> {
        let key_queue = self.key_queues.get_mut(head.key_queue)?;
        let flow = &mut key_queue.flows[head.priority];
        let waiter = flow.waiters.remove(&head.place())?;
        let counter = key_queue.account.counter();
        if flow.waiters.range(..head.place()).next().is_some() {
            flow.note_passed(counter);
        }
        flow.served = Some(now);
        self.floor = self.floor.max(key_queue.account.settled());
        key_queue.account.serve(waiter.charge);
        self.waiting -= 1;
        self.in_flight += 1;
        self.close_if_empty(head.key_queue);
        Some(waiter)
    }

    /// Removes a waiter because it will never get a slot.
    pub(in crate::queue::machine) fn dismiss(&mut self, head: Head) -> Option<Waiter<R>> {
        let key_queue = self.key_queues.get_mut(head.key_queue)?;
        let flow = &mut key_queue.flows[head.priority];
        let waiter = flow.waiters.remove(&head.place())?;
        self.waiting -= 1;
        self.close_if_empty(head.key_queue);
        Some(waiter)
    }

    /// Counts a slot that was released, and replaces the estimate on the key's counter by the real
    /// cost.
    pub(in crate::queue::machine) fn finish(
        &mut self,
        key: &K,
        charge: Charge,
        finished: Finished,
    ) {
        if let Some(held) = finished.held {
            self.service.add(held);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        let key_queue = self
            .key_queues
            .iter_mut()
            .find(|key_queue| key_queue.key == *key);
        let account = match key_queue {
            Some(key_queue) => Some(&mut key_queue.account),
            None => self.idle.get_mut(key),
        };
        if let Some(account) = account {
            account.finish(charge, finished);
        }
    }

    fn close_if_empty(&mut self, at: usize) {
        let flows = &self.key_queues[at].flows;
        if flows.iter().all(|flow| flow.waiters.is_empty()) {
            let key_queue = self.key_queues.swap_remove(at);
            self.idle.insert(key_queue.key, key_queue.account);
            self.forget_idle_keys();
        }
    }

    /// Forgets the idle keys that would start where a new key starts, now and later. If too many
    /// idle keys remain, forgets those too.
    fn forget_idle_keys(&mut self) {
        if self.idle.len() < self.sweep_at {
            return;
        }
        // No key starts below both the floor and all waiting keys: they never fall.
        let waiting = self.key_queues.iter();
        let settled = waiting.map(|key_queue| key_queue.account.settled());
        let least = settled.fold(self.floor, f64::min);
        self.idle
            .retain(|_, account| account.is_in_use() || account.settled() > least);
        let idle = self.idle.values();
        if idle.filter(|account| !account.is_in_use()).count() > MAX_IDLE_KEYS {
            self.idle.retain(|_, account| account.is_in_use());
        }
        self.sweep_at = (2 * self.idle.len()).max(64);
    }
}
