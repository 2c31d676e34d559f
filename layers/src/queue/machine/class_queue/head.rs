//! Which waiter of a class is next.

use std::cmp::Ordering;
use std::hash::Hash;

use tokio::time::Instant;

use super::{Ageing, ClassQueue, Flow};
use crate::queue::Priority;
use crate::queue::machine::Position;
use crate::queue::machine::passing::MOST_PASSED;

/// The next waiter of a class, with its rank for the comparison with other classes.
#[derive(Clone, Copy, Debug)]
pub(in crate::queue::machine) struct Head {
    pub(super) key_queue: usize,
    pub(super) priority: usize,
    arrival: Instant,
    rank: Rank,
}

/// The order of waiters. The smallest rank is served first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rank {
    /// 0 is overdue; the priorities follow.
    pub(super) level: usize,
    pub(super) counter: f64,
    pub(super) since: Instant,
    pub(super) id: u64,
}

impl Rank {
    fn order(&self, other: &Self) -> Ordering {
        let by_level = self.level.cmp(&other.level);
        // An overdue waiter goes first, whatever its counter.
        let by_counter = || match self.level {
            0 => Ordering::Equal,
            _ => self.counter.total_cmp(&other.counter),
        };
        let by_age = || (self.since, self.id).cmp(&(other.since, other.id));
        by_level.then_with(by_counter).then_with(by_age)
    }
}

impl Head {
    pub(super) fn place(&self) -> (Instant, u64) {
        (self.arrival, self.rank.id)
    }

    /// 0 is overdue; the priorities follow.
    pub(in crate::queue::machine) fn level(&self) -> usize {
        self.rank.level
    }

    /// The counter of its key.
    pub(in crate::queue::machine) fn counter(&self) -> f64 {
        self.rank.counter
    }

    /// The time since when it ages, and its number: the smallest is the longest wait.
    pub(in crate::queue::machine) fn age(&self) -> (Instant, u64) {
        (self.rank.since, self.rank.id)
    }
}

/// A waiter that one behind it in its flow has passed: what its key got by that does not count
/// against it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    id: u64,
    counter: f64,
    since: Instant,
}

impl<R> Flow<R> {
    /// The rank of the flow's first waiter.
    pub(super) fn rank(&self, priority: usize, counter: f64, ageing: Ageing) -> Option<Rank> {
        let (&place, _) = self.waiters.first_key_value()?;
        Some(self.rank_of(place, priority, counter, ageing))
    }

    /// The rank of a waiter as if it were the first one. A flow that is being served does not age,
    /// however long it is. Otherwise a key with many waiters would overtake keys with few, because
    /// its waiters wait longer.
    fn rank_of(
        &self,
        (arrival, id): (Instant, u64),
        priority: usize,
        counter: f64,
        ageing: Ageing,
    ) -> Rank {
        let served = self.served.map_or(arrival, |served| arrival.max(served));
        let passed = self.passed.filter(|passed| passed.id == id);
        let (since, counter) = match passed {
            Some(passed) => (passed.since, passed.counter.min(counter)),
            None => (served, counter),
        };
        Rank {
            level: ageing.level_of(priority, since),
            counter,
            since,
            id,
        }
    }

    /// Notes that a waiter behind the first one is about to be served, at this counter of their key.
    pub(super) fn note_passed(&mut self, counter: f64) {
        let Some((&(arrival, id), _)) = self.waiters.first_key_value() else {
            return;
        };
        if self.passed.is_none_or(|passed| passed.id != id) {
            self.passed = Some(Passed {
                id,
                counter,
                since: self.served.map_or(arrival, |served| arrival.max(served)),
            });
        }
    }
}

impl<K: Clone + Eq + Hash, R> ClassQueue<K, R> {
    /// The next waiter.
    pub(in crate::queue::machine) fn head(&self, ageing: Ageing) -> Option<Head> {
        self.head_of(ageing, |flow| {
            flow.waiters.first_key_value().map(|(place, _)| *place)
        })
    }

    /// The next waiter that can pass another one, which is told its number and its request.
    pub(in crate::queue::machine) fn head_past(
        &self,
        ageing: Ageing,
        can_pass: impl Fn(u64, &R) -> bool,
    ) -> Option<Head> {
        self.head_of(ageing, |flow| {
            let mut first = flow.waiters.iter().take(MOST_PASSED + 1);
            let next = first.find(|((_, id), waiter)| can_pass(*id, &waiter.request));
            next.map(|(place, _)| *place)
        })
    }

    /// The next waiter, if these are the places of the first waiters of all flows.
    fn head_of(
        &self,
        ageing: Ageing,
        first: impl Fn(&Flow<R>) -> Option<(Instant, u64)>,
    ) -> Option<Head> {
        let first = &first;
        let heads = self
            .key_queues
            .iter()
            .enumerate()
            .flat_map(|(at, key_queue)| {
                let flows = key_queue.flows.iter().enumerate();
                flows.filter_map(move |(priority, flow)| {
                    let place = first(flow)?;
                    let counter = key_queue.account.counter();
                    Some(Head {
                        key_queue: at,
                        priority,
                        arrival: place.0,
                        rank: flow.rank_of(place, priority, counter, ageing),
                    })
                })
            });
        heads.min_by(|a, b| a.rank.order(&b.rank))
    }

    /// A waiter's arrival and request. `head` must have been found since the last change.
    pub(in crate::queue::machine) fn first(&self, head: Head) -> Option<(Instant, &R)> {
        let flow = &self.key_queues.get(head.key_queue)?.flows[head.priority];
        let waiter = flow.waiters.get(&head.place())?;
        Some((head.arrival, &waiter.request))
    }

    /// The request of a waiter.
    pub(in crate::queue::machine) fn request(&self, position: &Position<K>) -> Option<&R> {
        let mut key_queues = self.key_queues.iter();
        let key_queue = key_queues.find(|key_queue| key_queue.key == position.key)?;
        let flow = &key_queue.flows[position.priority as usize];
        let waiter = flow.waiters.get(&(position.arrival, position.id))?;
        Some(&waiter.request)
    }

    /// The position of a waiter. `head` must have been found since the last change.
    pub(in crate::queue::machine) fn position(&self, head: Head) -> Option<Position<K>> {
        Some(Position {
            key: self.key_queues.get(head.key_queue)?.key.clone(),
            priority: Priority::ALL[head.priority],
            arrival: head.arrival,
            id: head.rank.id,
        })
    }
}
