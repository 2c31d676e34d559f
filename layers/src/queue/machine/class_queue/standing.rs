//! Where a waiter stands: how many are served before it, and how long that takes.

use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::{Ageing, ClassQueue, Flow, Rank};
use crate::queue::machine::{Charge, Position};

impl<K: Clone + Eq + Hash, R> ClassQueue<K, R> {
    /// The number of waiters that will be served before this one, if none enters and none leaves.
    pub(in crate::queue::machine) fn ahead(
        &self,
        position: &Position<K>,
        ageing: Ageing,
    ) -> Option<usize> {
        let priority = position.priority as usize;
        let key_queue = self
            .key_queues
            .iter()
            .find(|key_queue| key_queue.key == position.key)?;
        let waiters = &key_queue.flows[priority].waiters;
        let place = (position.arrival, position.id);
        let waiter = waiters.get(&place)?;
        let before = waiters.range(..place).count();
        let rank = key_queue.flows[priority].rank(priority, key_queue.account.counter(), ageing)?;
        let tag = key_queue.account.counter() + before as f64 * waiter.charge.units();
        let me = Turn {
            priority,
            // Only the first waiter of a flow ages.
            level: if before == 0 {
                rank.level
            } else {
                priority + 1
            },
            tag,
            place: if before == 0 {
                (rank.since, rank.id)
            } else {
                place
            },
        };
        Some(before + self.others_before(&position.key, me, ageing))
    }

    /// The number of waiters that would be served before a new request with this key. `own` says
    /// whether the key's waiters of the same priority count.
    pub(in crate::queue::machine) fn ahead_of_newcomer(
        &self,
        position: &Position<K>,
        charge: Charge,
        own: OwnWaiters,
        ageing: Ageing,
    ) -> usize {
        let priority = position.priority as usize;
        let key_queue = self
            .key_queues
            .iter()
            .find(|key_queue| key_queue.key == position.key);
        let known = match key_queue {
            Some(key_queue) => Some(&key_queue.account),
            None => self.idle.get(&position.key),
        };
        let mut account = known.copied().unwrap_or_default();
        if key_queue.is_none_or(|key_queue| key_queue.flows[priority].waiters.is_empty()) {
            account.lift(self.start(priority));
        }
        let place = (position.arrival, position.id);
        let before = match (own, key_queue) {
            (OwnWaiters::Counted, Some(key_queue)) => {
                key_queue.flows[priority].waiters.range(..place).count()
            }
            _ => 0,
        };
        let me = Turn {
            priority,
            level: priority + 1,
            tag: account.counter() + before as f64 * charge.units(),
            place,
        };
        before + self.others_before(&position.key, me, ageing)
    }

    fn others_before(&self, key: &K, me: Turn, ageing: Ageing) -> usize {
        let flows = self.key_queues.iter().flat_map(|key_queue| {
            let flows = key_queue.flows.iter().enumerate();
            flows.map(move |(priority, flow)| (key_queue, priority, flow))
        });
        let others = flows.filter(|(key_queue, priority, _)| {
            // The key's own flow is not counted here.
            key_queue.key != *key || *priority != me.priority
        });
        others
            .map(|(key_queue, priority, flow)| {
                let counter = key_queue.account.counter();
                flow.rank(priority, counter, ageing)
                    .map_or(0, |rank| flow.before(priority, rank, me))
            })
            .sum()
    }

    /// The expected wait with `ahead` waiters before.
    ///
    /// Each slot that serves the class becomes free once per service time.
    pub(in crate::queue::machine) fn expected_wait(
        &self,
        ahead: usize,
        assumed_service: Option<Duration>,
    ) -> Option<Duration> {
        let service = self.service.expected(assumed_service)?;
        let rounds = (ahead + 1) as f64 / self.capacity() as f64;
        Duration::try_from_secs_f64(service * rounds).ok()
    }

    /// Whether one more request may be refused by its expected wait: enough is known of the service
    /// time, and the request would not be served with the next turn of the slots.
    pub(in crate::queue::machine) fn may_refuse_by_wait(
        &self,
        assumed_service: Option<Duration>,
    ) -> bool {
        let is_known = assumed_service.is_some() || self.service.is_known();
        is_known && self.waiting >= self.capacity()
    }
}

/// Whether the key's own waiters count as served before a new request.
#[derive(Clone, Copy, Debug)]
pub(in crate::queue::machine) enum OwnWaiters {
    Counted,
    Excluded,
}

/// The rank that a waiter is expected to be served at.
#[derive(Clone, Copy, Debug)]
struct Turn {
    priority: usize,
    level: usize,
    /// The counter of its key at that time.
    tag: f64,
    place: (Instant, u64),
}

impl<R> Flow<R> {
    /// The number of this flow's waiters that are served before a waiter of another flow.
    fn before(&self, priority: usize, head: Rank, me: Turn) -> usize {
        if priority + 1 < me.level {
            return self.waiters.len();
        }
        let is_earlier = (head.since, head.id) < me.place;
        if head.level != me.level || me.level == 0 {
            // One of the two first waiters has aged.
            return usize::from(
                head.level < me.level || (me.level == 0 && head.level == 0 && is_earlier),
            );
        }
        if priority + 1 > me.level {
            // The first waiter has aged to this level, the waiters behind it have not.
            return usize::from(head.counter < me.tag || (head.counter == me.tag && is_earlier));
        }
        let units = self.waiters.first_key_value();
        let units = units.map_or(1.0, |(_, waiter)| waiter.charge.units());
        let distance = me.tag - head.counter;
        if distance < 0.0 {
            return 0;
        }
        // One waiter for each step of the counter, and one more if it has the earlier arrival.
        let turns = match units > 0.0 {
            true => (distance / units).ceil() as usize,
            false => usize::MAX,
        };
        let tie = usize::from(distance % units == 0.0 && is_earlier);
        turns.saturating_add(tie).min(self.waiters.len())
    }
}
