//! The queue of one class: which waiter is next. This code gets the time as an argument and knows
//! no wakers.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

use super::entry::{Charge, Priority};

/// The number of idle keys (no waiter, no slot) whose counters are kept.
const MAX_IDLE_KEYS: usize = 1024;
/// The weight of the latest service time in the moving average.
const SERVICE_WEIGHT: f64 = 0.2;

/// The position of a waiter: its key, and the values that order it.
#[derive(Clone, Debug)]
pub(super) struct Position<K> {
    pub(super) key: K,
    pub(super) priority: Priority,
    pub(super) arrival: Instant,
    pub(super) id: u64,
}

/// A waiting request.
#[derive(Debug)]
pub(super) struct Waiter<W> {
    pub(super) id: u64,
    pub(super) charge: Charge,
    pub(super) data: W,
}

/// The waiters of one class, and the service that each key received.
#[derive(Debug)]
pub(super) struct ClassQueue<K, W> {
    key_queues: Vec<KeyQueue<K, W>>,
    idle: HashMap<K, Account>,
    /// The number of idle keys at which the next clean-up runs.
    sweep_at: usize,
    waiting: usize,
    in_flight: usize,
    /// The moving average of the time a slot is held, in seconds; `None` before the first release.
    service: Option<f64>,
    /// The highest counter at which a request was served. New keys start here if no request waits.
    floor: f64,
}

/// The waiters of one key, by priority. There is at least one.
#[derive(Debug)]
struct KeyQueue<K, W> {
    key: K,
    account: Account,
    flows: [Flow<W>; Priority::COUNT],
}

/// The service that a key received: tokens for each unit of weight, on the common scale of the
/// class.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    counter: f64,
    in_flight: usize,
}

/// The waiters of one key with one priority.
#[derive(Debug)]
struct Flow<W> {
    /// Ordered by arrival, so that a retried request keeps its position.
    waiters: BTreeMap<(Instant, u64), Waiter<W>>,
    /// The time when a waiter of this flow was last served.
    served: Option<Instant>,
}

/// The next waiter of a class, with its rank for the comparison with other classes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    key_queue: usize,
    priority: usize,
    rank: Rank,
}

/// The order of waiters. The smallest rank is served first.
#[derive(Clone, Copy, Debug)]
struct Rank {
    /// 0 is overdue; the priorities follow.
    level: usize,
    counter: f64,
    since: Instant,
    id: u64,
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
    /// 0 is overdue; the priorities follow.
    pub(super) fn level(&self) -> usize {
        self.rank.level
    }
}

impl<W> Flow<W> {
    fn empty() -> Self {
        Self {
            waiters: BTreeMap::new(),
            served: None,
        }
    }

    /// The rank of the flow's first waiter. A flow that is being served does not age, however long
    /// it is. Otherwise a key with many waiters would overtake keys with few, because its waiters
    /// wait longer.
    fn rank(&self, priority: usize, counter: f64, ageing: Ageing) -> Option<Rank> {
        let (&(arrival, id), _) = self.waiters.first_key_value()?;
        let since = self.served.map_or(arrival, |served| arrival.max(served));
        Some(Rank {
            level: (priority + 1).saturating_sub(ageing.steps(since)),
            counter,
            since,
            id,
        })
    }
}

/// The current time, and the wait after which a waiter rises by one priority.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ageing {
    pub(super) now: Instant,
    pub(super) step: Option<Duration>,
}

impl Ageing {
    fn steps(self, since: Instant) -> usize {
        let waited = self.now.saturating_duration_since(since);
        let Some(step) = self.step else { return 0 };
        (1..=Priority::COUNT as u32)
            .take_while(|steps| waited >= step.saturating_mul(*steps))
            .count()
    }
}

impl<K: Clone + Eq + Hash, W> ClassQueue<K, W> {
    pub(super) fn new() -> Self {
        Self {
            key_queues: Vec::new(),
            idle: HashMap::default(),
            sweep_at: 64,
            waiting: 0,
            in_flight: 0,
            service: None,
            floor: 0.0,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn service_time(&self) -> Option<Duration> {
        self.service.map(Duration::from_secs_f64)
    }

    /// The number of keys with waiters.
    pub(super) fn keys_waiting(&self) -> usize {
        self.key_queues.len()
    }

    /// The number of known keys, with waiters or without.
    #[cfg(test)]
    pub(super) fn keys_known(&self) -> usize {
        self.key_queues.len() + self.idle.len()
    }

    pub(super) fn waiting_of(&self, key: &K) -> usize {
        let key_queue = self
            .key_queues
            .iter()
            .find(|key_queue| key_queue.key == *key);
        key_queue.map_or(0, |key_queue| {
            key_queue.flows.iter().map(|flow| flow.waiters.len()).sum()
        })
    }

    /// The arrival of the waiter that waits longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let flows = self
            .key_queues
            .iter()
            .flat_map(|key_queue| &key_queue.flows);
        let heads = flows.filter_map(|flow| flow.waiters.first_key_value());
        heads.map(|((arrival, _), _)| *arrival).min()
    }

    /// The counter at which a key without waiters starts. A key cannot save up service that it did
    /// not request.
    fn lowest_counter(&self) -> f64 {
        let counters = self
            .key_queues
            .iter()
            .map(|key_queue| key_queue.account.counter);
        counters.min_by(f64::total_cmp).unwrap_or(self.floor)
    }

    /// Counts a request that got a slot without waiting.
    pub(super) fn admit(&mut self, key: &K, charge: Charge) {
        debug_assert!(self.key_queues.is_empty());
        let floor = self.floor;
        let serve = |account: &mut Account| account.serve(floor, charge);
        self.floor = match self.idle.get_mut(key) {
            Some(account) => serve(account),
            None => {
                self.forget_idle_keys();
                serve(self.idle.entry(key.clone()).or_default())
            }
        };
        self.in_flight += 1;
    }

    pub(super) fn push(&mut self, position: &Position<K>, charge: Charge, data: W) {
        let least = self.lowest_counter();
        let at = self
            .key_queues
            .iter()
            .position(|key_queue| key_queue.key == position.key);
        let at = at.unwrap_or_else(|| {
            let mut account = self.idle.remove(&position.key).unwrap_or_default();
            account.counter = account.counter.max(least);
            self.key_queues.push(KeyQueue {
                key: position.key.clone(),
                account,
                flows: std::array::from_fn(|_| Flow::empty()),
            });
            self.key_queues.len() - 1
        });
        let flow = &mut self.key_queues[at].flows[position.priority as usize];
        let id = position.id;
        flow.waiters
            .insert((position.arrival, id), Waiter { id, charge, data });
        self.waiting += 1;
    }

    pub(super) fn remove(&mut self, position: &Position<K>) -> Option<Waiter<W>> {
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

    pub(super) fn head(&self, ageing: Ageing) -> Option<Head> {
        let heads = self
            .key_queues
            .iter()
            .enumerate()
            .flat_map(|(at, key_queue)| {
                let flows = key_queue.flows.iter().enumerate();
                flows.filter_map(move |(priority, flow)| {
                    let rank = flow.rank(priority, key_queue.account.counter, ageing)?;
                    Some(Head {
                        key_queue: at,
                        priority,
                        rank,
                    })
                })
            });
        heads.min_by(|a, b| a.rank.order(&b.rank))
    }

    /// The first waiter's arrival and data. `head` must have been found since the last change.
    pub(super) fn first(&self, head: Head) -> Option<(Instant, &W)> {
        let flow = &self.key_queues.get(head.key_queue)?.flows[head.priority];
        let ((arrival, _), waiter) = flow.waiters.first_key_value()?;
        Some((*arrival, &waiter.data))
    }

    /// Removes the first waiter because it got a slot.
    pub(super) fn serve(&mut self, head: Head, now: Instant) -> Option<Waiter<W>> {
        let key_queue = self.key_queues.get_mut(head.key_queue)?;
        let flow = &mut key_queue.flows[head.priority];
        let (_, waiter) = flow.waiters.pop_first()?;
        flow.served = Some(now);
        let started_at = key_queue.account.serve(0.0, waiter.charge);
        self.floor = self.floor.max(started_at);
        self.waiting -= 1;
        self.in_flight += 1;
        self.close_if_empty(head.key_queue);
        Some(waiter)
    }

    /// Removes the first waiter because it will never get a slot.
    pub(super) fn dismiss(&mut self, head: Head) -> Option<Waiter<W>> {
        let key_queue = self.key_queues.get_mut(head.key_queue)?;
        let (_, waiter) = key_queue.flows[head.priority].waiters.pop_first()?;
        self.waiting -= 1;
        self.close_if_empty(head.key_queue);
        Some(waiter)
    }

    /// Counts a slot that was released after `held`, and adds `correction` to the key's counter.
    pub(super) fn finish(&mut self, key: &K, held: Option<Duration>, correction: f64) {
        if let Some(held) = held.map(|held| held.as_secs_f64()) {
            self.service = Some(match self.service {
                Some(service) => service + SERVICE_WEIGHT * (held - service),
                None => held,
            });
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
            account.in_flight = account.in_flight.saturating_sub(1);
            account.counter = (account.counter + correction).max(0.0);
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

    /// Forgets the idle keys whose counter is at the start value of a new key. If too many idle
    /// keys remain, forgets those too.
    fn forget_idle_keys(&mut self) {
        if self.idle.len() < self.sweep_at {
            return;
        }
        let start = self.lowest_counter();
        self.idle
            .retain(|_, account| account.in_flight > 0 || account.counter > start);
        let tickets_in_memory = self.idle.values().filter(|account| account.in_flight == 0);
        if tickets_in_memory.count() > MAX_IDLE_KEYS {
            self.idle.retain(|_, account| account.in_flight > 0);
        }
        self.sweep_at = (2 * self.idle.len()).max(64);
    }

    /// The number of waiters that will be served before this one, if none enters and none leaves.
    pub(super) fn ahead(&self, position: &Position<K>, ageing: Ageing) -> Option<usize> {
        let priority = position.priority as usize;
        let key_queue = self
            .key_queues
            .iter()
            .find(|key_queue| key_queue.key == position.key)?;
        let waiters = &key_queue.flows[priority].waiters;
        let place = (position.arrival, position.id);
        let waiter = waiters.get(&place)?;
        let before = waiters.range(..place).count();
        let rank = key_queue.flows[priority].rank(priority, key_queue.account.counter, ageing)?;
        let tag = key_queue.account.counter + before as f64 * waiter.charge.units();
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
    pub(super) fn ahead_of_newcomer(
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
        let counter = match key_queue {
            Some(key_queue) => key_queue.account.counter,
            None => {
                let known = self.idle.get(&position.key);
                known.map_or(0.0, |account| account.counter)
            }
        };
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
            tag: counter.max(self.lowest_counter()) + before as f64 * charge.units(),
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
                let counter = key_queue.account.counter;
                flow.rank(priority, counter, ageing)
                    .map_or(0, |rank| flow.before(priority, rank, me))
            })
            .sum()
    }

    /// The expected wait with `ahead` waiters before.
    ///
    /// The class is served by as many slots as it holds, and each of them becomes free once per
    /// service time.
    pub(super) fn expected_wait(
        &self,
        ahead: usize,
        assumed_service: Option<Duration>,
    ) -> Option<Duration> {
        let assumed = || assumed_service.map(|time| time.as_secs_f64());
        let service = self.service.or_else(assumed)?;
        let rounds = (ahead + 1) as f64 / self.in_flight.max(1) as f64;
        Duration::try_from_secs_f64(service * rounds).ok()
    }
}

/// Whether the key's own waiters count as served before a new request.
#[derive(Clone, Copy, Debug)]
pub(super) enum OwnWaiters {
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

impl<W> Flow<W> {
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

impl Account {
    /// Charges the account for a request that is served now. Returns the counter before the charge.
    fn serve(&mut self, floor: f64, charge: Charge) -> f64 {
        let start = self.counter.max(floor);
        self.counter = start + charge.units();
        self.in_flight += 1;
        start
    }
}
