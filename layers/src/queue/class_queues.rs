//! The queues of all classes: which request may enter, and which waiter a slot is offered to next.

use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

use super::class_queue::{Ageing, ClassQueue, OwnWaiters, Position, Waiter};
use super::entry::Charge;
use super::{KeyQueueFull, Line, QueueFull};
use crate::{BoxError, Failure};

/// The number of classes without waiters whose service time is kept.
const MAX_IDLE_CLASSES: usize = 1024;
/// The shortest `Retry-After`, used also when no service time is known.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The limits and rules of a queue, the same for each class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) max_waiting: usize,
    pub(super) max_waiting_per_key: Option<usize>,
    pub(super) max_predicted_wait: Option<Duration>,
    pub(super) max_wait: Option<Duration>,
    pub(super) ageing: Option<Duration>,
    pub(super) assumed_service: Option<Duration>,
}

impl Rules {
    pub(super) fn at(&self, now: Instant) -> Ageing {
        Ageing {
            now,
            step: self.ageing,
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            // Ollama's own OLLAMA_MAX_QUEUE.
            max_waiting: 512,
            max_waiting_per_key: None,
            max_predicted_wait: Some(Duration::from_secs(300)),
            max_wait: Some(Duration::from_secs(300)),
            ageing: Some(Duration::from_secs(30)),
            assumed_service: None,
        }
    }
}

/// The response of a [`Dispatch`](super::Dispatch) for one waiter.
pub(super) type Offer<S> = Result<Option<S>, BoxError>;

/// The queues of all classes.
#[derive(Debug)]
pub(super) struct ClassQueues<C, K, W> {
    pub(super) rules: Rules,
    classes: HashMap<C, Class<K, W>>,
    waiting: usize,
    last_id: u64,
    last_turn: u64,
    last_round: u64,
}

#[derive(Debug)]
struct Class<K, W> {
    class_queue: ClassQueue<K, W>,
    /// The turn in which its last waiter was served. Classes that share slots take turns.
    turn: u64,
    /// The last round in which there was no slot for it.
    blocked_in: u64,
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash, W> ClassQueues<C, K, W> {
    pub(super) fn new() -> Self {
        Self {
            rules: Rules::default(),
            classes: HashMap::default(),
            waiting: 0,
            last_id: 0,
            last_turn: 0,
            last_round: 0,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn waiting_of(&self, class: &C) -> usize {
        self.class_queue(class).map_or(0, ClassQueue::waiting)
    }

    pub(super) fn class_queue(&self, class: &C) -> Option<&ClassQueue<K, W>> {
        self.classes.get(class).map(|class| &class.class_queue)
    }

    pub(super) fn class_queues(&self) -> impl Iterator<Item = (&C, &ClassQueue<K, W>)> {
        self.classes
            .iter()
            .map(|(class, of)| (class, &of.class_queue))
    }

    /// Admits a request if there is a slot for it and no request of its class waits.
    pub(super) fn try_admit<S>(
        &mut self,
        class: &C,
        key: &K,
        charge: Charge,
        take: impl FnOnce() -> Offer<S>,
    ) -> Offer<S> {
        let known = self.classes.get_mut(class);
        if known
            .as_ref()
            .is_some_and(|of| of.class_queue.waiting() > 0)
        {
            return Ok(None);
        }
        let Some(slot) = take()? else {
            return Ok(None);
        };
        match known {
            Some(known) => known.class_queue.admit(key, charge),
            None => self.class(class).class_queue.admit(key, charge),
        }
        Ok(Some(slot))
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Adds a waiter.
    pub(super) fn push(
        &mut self,
        class: &C,
        position: &Position<K>,
        charge: Charge,
        data: W,
        now: Instant,
    ) -> Result<(), Failure> {
        let rules = self.rules;
        let class_queue = &mut self.class(class).class_queue;
        Check {
            rules: &rules,
            class_queue,
            position,
            charge,
            now,
        }
        .run()?;
        class_queue.push(position, charge, data);
        self.waiting += 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, class: &C, position: &Position<K>) -> Option<Waiter<W>> {
        let waiter = self.classes.get_mut(class)?.class_queue.remove(position)?;
        self.waiting -= 1;
        Some(waiter)
    }

    pub(super) fn finish(&mut self, class: &C, key: &K, held: Option<Duration>, correction: f64) {
        if let Some(class) = self.classes.get_mut(class) {
            class.class_queue.finish(key, held, correction);
        }
    }

    /// Offers slots until no waiter can get one.
    ///
    /// A higher priority goes first, then the class that was not served for the longest time. A
    /// class without a free slot is skipped and does not block the others. `deliver` gets each
    /// waiter that has left, with the number of waiters that its class has now.
    pub(super) fn hand_out<S>(
        &mut self,
        now: Instant,
        mut offer: impl FnMut(&C, &W, Line) -> Offer<S>,
        mut deliver: impl FnMut(&C, usize, Waiter<W>, Result<S, BoxError>),
    ) {
        if self.waiting == 0 {
            return;
        }
        let ageing = self.rules.at(now);
        self.last_round += 1;
        let round = self.last_round;
        loop {
            let open = self
                .classes
                .iter_mut()
                .filter(|(_, class)| class.class_queue.waiting() > 0 && class.blocked_in != round);
            let heads = open.filter_map(|(name, class)| {
                let head = class.class_queue.head(ageing)?;
                Some((name, class, head))
            });
            let next = heads.min_by_key(|(_, class, head)| (head.level(), class.turn));
            let Some((name, class, head)) = next else {
                return;
            };
            let waiting = class.class_queue.waiting();
            let offered = match class.class_queue.first(head) {
                Some((since, data)) => offer(
                    name,
                    data,
                    Line {
                        now,
                        waiting,
                        since,
                    },
                ),
                None => Ok(None),
            };
            let answered = match offered {
                Ok(None) => {
                    class.blocked_in = round;
                    continue;
                }
                Ok(Some(slot)) => {
                    self.last_turn += 1;
                    class.turn = self.last_turn;
                    class
                        .class_queue
                        .serve(head, now)
                        .map(|waiter| (waiter, Ok(slot)))
                }
                Err(error) => class
                    .class_queue
                    .dismiss(head)
                    .map(|waiter| (waiter, Err(error))),
            };
            if let Some((waiter, answer)) = answered {
                self.waiting -= 1;
                deliver(name, class.class_queue.waiting(), waiter, answer);
            }
        }
    }

    fn class(&mut self, name: &C) -> &mut Class<K, W> {
        if !self.classes.contains_key(name) && self.classes.len() >= MAX_IDLE_CLASSES {
            let is_used = |class_queue: &ClassQueue<K, W>| {
                class_queue.waiting() > 0 || class_queue.in_flight() > 0
            };
            self.classes.retain(|_, class| is_used(&class.class_queue));
        }
        match self.classes.entry(name.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Class {
                class_queue: ClassQueue::new(),
                turn: self.last_turn,
                blocked_in: 0,
            }),
        }
    }
}

/// Checks whether one more request may wait.
#[derive(Debug)]
struct Check<'a, K, W> {
    rules: &'a Rules,
    class_queue: &'a ClassQueue<K, W>,
    position: &'a Position<K>,
    charge: Charge,
    now: Instant,
}

impl<K: Clone + Eq + Hash, W> Check<'_, K, W> {
    fn run(&self) -> Result<(), Failure> {
        let (rules, class_queue) = (self.rules, self.class_queue);
        let own = class_queue.waiting_of(&self.position.key);
        let is_full = class_queue.waiting() >= rules.max_waiting;
        let is_share_full = rules.max_waiting_per_key.is_some_and(|max| own >= max);
        let excess = self.excess(OwnWaiters::Counted);
        if !is_full && !is_share_full && excess.is_none() {
            return Ok(());
        }

        // The refusal is the key's own fault if the key has more waiters than the average key, or
        // if the wait would be short enough without the key's own waiters.
        let has_more_than_others = own * class_queue.keys_waiting() > class_queue.waiting();
        let is_own_fault = match (is_share_full, is_full) {
            (true, _) => true,
            (false, true) => has_more_than_others,
            (false, false) => own > 0 && self.excess(OwnWaiters::Excluded).is_none(),
        };
        let until_next_slot = || class_queue.expected_wait(0, rules.assumed_service);
        let retry_after = excess.or_else(until_next_slot).unwrap_or_default();
        let retry_after = retry_after.max(MIN_RETRY_AFTER);
        let predicted_wait = self.wait(OwnWaiters::Counted);
        Err(match is_own_fault {
            true => KeyQueueFull {
                waiting: own,
                predicted_wait,
                retry_after,
            }
            .into(),
            false => QueueFull {
                waiting: class_queue.waiting(),
                predicted_wait,
                retry_after,
            }
            .into(),
        })
    }

    fn wait(&self, own: OwnWaiters) -> Option<Duration> {
        let ageing = self.rules.at(self.now);
        let ahead = self
            .class_queue
            .ahead_of_newcomer(self.position, self.charge, own, ageing);
        self.class_queue
            .expected_wait(ahead, self.rules.assumed_service)
    }

    /// The time by which the predicted wait exceeds its limit.
    fn excess(&self, own: OwnWaiters) -> Option<Duration> {
        let bound = self.rules.max_predicted_wait?;
        let excess = self.wait(own)?.checked_sub(bound)?;
        (!excess.is_zero()).then_some(excess)
    }
}
