//! The queues of all classes: which request may enter, and which waiter a slot is offered to next.

use std::collections::hash_map;
use std::hash::Hash;

use foldhash::HashMap;
use tokio::time::Instant;

use super::class_queue::{Ageing, ClassQueue, Head};
use super::exchange::Exchange;
use super::passing::{NonePasses, PassedInRound, Passing};
use super::refusal::Check;
use super::{
    Charge, ClassSnapshot, Delivery, Finished, Position, QueuePosition, Rules, Waiter,
    WaiterSnapshot,
};
use crate::queue::{Entry, Line};
use crate::{BoxError, Failure};

/// The number of classes without waiters whose service time is kept.
const MAX_IDLE_CLASSES: usize = 1024;

/// The answer to a waiter that asks for a slot, as of
/// [`Dispatch::try_take`](crate::queue::Dispatch::try_take).
pub type Offer<S> = Result<Option<S>, BoxError>;

/// The queues of all classes: `C` is the class, `K` the key, `R` the request of an [`Entry`]. See
/// the [module](super).
///
/// The times that its methods get must not go back.
#[derive(Debug)]
pub struct ClassQueues<C, K, R> {
    rules: Rules,
    pub(super) classes: HashMap<C, Class<K, R>>,
    waiting: usize,
    last_id: u64,
    last_turn: u64,
    last_round: u64,
    /// `None` if the service is not exchanged with other processes.
    pub(super) exchange: Option<Exchange<C, K>>,
}

#[derive(Debug)]
pub(super) struct Class<K, R> {
    pub(super) class_queue: ClassQueue<K, R>,
    /// The turn in which its last waiter was served. Classes that share slots take turns.
    turn: u64,
    /// The last round in which there was no slot for it.
    blocked_in: u64,
    passed: Option<PassedInRound<K>>,
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash, R> ClassQueues<C, K, R> {
    /// Empty queues with these rules.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            classes: HashMap::default(),
            waiting: 0,
            last_id: 0,
            last_turn: 0,
            last_round: 0,
            exchange: None,
        }
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The rules, to change them. Requests that wait already stay.
    pub fn rules_mut(&mut self) -> &mut Rules {
        &mut self.rules
    }

    /// The number of waiters of all classes.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The number of waiters of one class.
    pub fn waiting_of(&self, class: &C) -> usize {
        self.class_queue(class).map_or(0, ClassQueue::waiting)
    }

    /// Admits a request that arrives now, if no request of its class waits and `take` has a slot
    /// for it. A request that is not admitted can [`push`](Self::push).
    ///
    /// # Errors
    /// Those of `take`.
    pub fn admit<S>(
        &mut self,
        now: Instant,
        class: &C,
        entry: &Entry<K, R>,
        take: impl FnOnce(&R, Line) -> Offer<S>,
    ) -> Offer<S> {
        let known = self.classes.get_mut(class);
        if known
            .as_ref()
            .is_some_and(|of| of.class_queue.waiting() > 0)
        {
            return Ok(None);
        }
        let since = entry.arrival_at(now);
        let counter = match (&self.exchange, &known) {
            (Some(_), Some(known)) => known.class_queue.counter_of_newcomer(&entry.key),
            _ => 0.0,
        };
        let line = Line {
            since,
            level: self.rules.at(now).level(entry.priority, since),
            counter,
            ..Line::arriving(now)
        };
        let Some(slot) = take(&entry.request, line)? else {
            return Ok(None);
        };
        let class_queue = match known {
            Some(known) => &mut known.class_queue,
            None => &mut self.class(class).class_queue,
        };
        class_queue.admit(&entry.key, entry.charge);
        self.note_new(class, &entry.key);
        Ok(Some(slot))
    }

    /// Sets the number of slots of a class, held or free; by default as many as are held. Predicted
    /// waits depend on it.
    pub fn set_slots(&mut self, class: &C, slots: Option<usize>) {
        self.class(class).class_queue.set_slots(slots);
    }

    /// Adds a waiter.
    ///
    /// # Errors
    /// [`QueueFull`](crate::queue::QueueFull) and [`KeyQueueFull`](crate::queue::KeyQueueFull).
    pub fn push(
        &mut self,
        now: Instant,
        class: &C,
        entry: Entry<K, R>,
    ) -> Result<Position<K>, Failure> {
        self.last_id += 1;
        let position = Position {
            arrival: entry.arrival_at(now),
            key: entry.key,
            priority: entry.priority,
            id: self.last_id,
        };
        let rules = self.rules;
        let class_queue = &mut self.class(class).class_queue;
        if !entry.keeps_place {
            Check {
                rules: &rules,
                class_queue,
                position: &position,
                charge: entry.charge,
                shares_key: entry.shares_key,
                now,
            }
            .run()?;
        }
        class_queue.push(&position, entry.charge, entry.request);
        self.waiting += 1;
        self.note_new(class, &position.key);
        Ok(position)
    }

    /// Removes a waiter that gives up; `None` if it waits no longer. A waiter behind it may be able
    /// to use a slot that this one could not: [`hand_out`](Self::hand_out) after it.
    pub fn remove(&mut self, class: &C, position: &Position<K>) -> Option<Waiter<R>> {
        let waiter = self.classes.get_mut(class)?.class_queue.remove(position)?;
        self.waiting -= 1;
        Some(waiter)
    }

    /// Counts a slot as released that a request of `key` held, with the charge of its entry. A
    /// [`hand_out`](Self::hand_out) follows.
    pub fn finish(&mut self, class: &C, key: &K, charge: Charge, finished: Finished) {
        if let Some(class) = self.classes.get_mut(class) {
            class.class_queue.finish(key, charge, finished);
        }
        self.note_served(class, key);
    }

    /// Offers slots until no waiter can get one.
    ///
    /// A higher priority goes first, then the class that was not served for the longest time, then
    /// the longest wait. A class without a free slot is skipped and does not block the others.
    /// `deliver` gets each waiter that leaves.
    pub fn hand_out<S>(
        &mut self,
        now: Instant,
        mut offer: impl FnMut(&C, &R, Line) -> Offer<S>,
        deliver: impl FnMut(Delivery<'_, C, R, S>),
    ) {
        let offer = |class: &C, request: &R, _: Option<&R>, line| offer(class, request, line);
        self.hand_out_past(now, None, &NonePasses, offer, deliver);
    }

    /// As [`hand_out`](Self::hand_out), for the waiters of one class if one is given, but the first
    /// waiter of a class for which there is no slot does not block the others, if it may be passed
    /// because it can use only some of the slots.
    ///
    /// The next waiter that [can pass](Passing) it is then offered a slot that the first one cannot use:
    /// `offer` gets the request of the first one after its own. If there is none, the class is blocked.
    pub fn hand_out_past<S>(
        &mut self,
        now: Instant,
        only: Option<&C>,
        passing: &impl Passing<R>,
        mut offer: impl FnMut(&C, &R, Option<&R>, Line) -> Offer<S>,
        mut deliver: impl FnMut(Delivery<'_, C, R, S>),
    ) {
        if self.waiting == 0 {
            return;
        }
        self.last_round += 1;
        let ageing = self.rules.at(now);
        let round = self.last_round;
        loop {
            let open = self.classes.iter_mut().filter(|(name, class)| {
                let is_open = class.class_queue.waiting() > 0 && class.blocked_in != round;
                is_open && only.is_none_or(|only| only == *name)
            });
            let heads = open.filter_map(|(name, class)| {
                let head = class.head(round, ageing, passing)?;
                Some((name, class, head))
            });
            // New classes have the same turn. The order of a hash map must not decide.
            let next = heads.min_by_key(|(_, class, head)| (head.level(), class.turn, head.age()));
            let Some((name, class, head)) = next else {
                return;
            };
            let ask = |request: &R, passed: Option<&R>, line| offer(name, request, passed, line);
            let answer = match class.ask(head, round, now, ask) {
                Ok(Some(slot)) => {
                    self.last_turn += 1;
                    class.turn = self.last_turn;
                    Ok(slot)
                }
                Ok(None) => {
                    class.has_no_slot_for(head, round, passing);
                    continue;
                }
                Err(error) => Err(error),
            };
            let waiter = match &answer {
                Ok(_) => class.class_queue.serve(head, now),
                Err(_) => class.class_queue.dismiss(head),
            };
            if let Some(waiter) = waiter {
                self.waiting -= 1;
                deliver(Delivery {
                    class: name,
                    waiter,
                    waiting: class.class_queue.waiting(),
                    answer,
                });
            }
        }
    }

    /// Whether a newcomer may get a slot at once although others of its class wait, because the first of
    /// them cannot use it: after its [`push`](Self::push), [hand out](Self::hand_out_past).
    pub fn lets_pass(
        &self,
        now: Instant,
        class: &C,
        newcomer: &R,
        passing: &impl Passing<R>,
    ) -> bool {
        let class_queue = self.class_queue(class);
        let first = class_queue.and_then(|class_queue| {
            let head = class_queue.head(self.rules.at(now))?;
            class_queue.first(head)
        });
        first.is_some_and(|(_, first)| {
            passing.may_be_passed(first) && passing.can_pass(first, newcomer)
        })
    }

    /// The line of the waiter that is next in a class; `None` if none waits.
    pub fn next_line(&self, now: Instant, class: &C) -> Option<Line> {
        let class = self.classes.get(class)?;
        let head = class.class_queue.head(self.rules.at(now))?;
        Some(class.line(head, now)?.0)
    }

    /// Snapshots of all classes in use and those that are still remembered, in no order.
    pub fn snapshot(&self, now: Instant) -> Vec<ClassSnapshot<C>> {
        let classes = self.classes.iter();
        classes
            .map(|(name, class)| self.snapshot_of(name, &class.class_queue, now))
            .collect()
    }

    /// A snapshot of one class, if the class is known.
    pub fn class_snapshot(&self, now: Instant, class: &C) -> Option<ClassSnapshot<C>> {
        let class_queue = self.class_queue(class)?;
        Some(self.snapshot_of(class, class_queue, now))
    }

    fn snapshot_of(
        &self,
        class: &C,
        class_queue: &ClassQueue<K, R>,
        now: Instant,
    ) -> ClassSnapshot<C> {
        ClassSnapshot::of(class.clone(), class_queue, &self.rules, now)
    }

    /// Where a waiter stands; `None` if it waits no longer.
    pub fn queue_position(
        &self,
        now: Instant,
        class: &C,
        position: &Position<K>,
    ) -> Option<QueuePosition> {
        let class_queue = self.class_queue(class)?;
        let ahead = class_queue.ahead(position, self.rules.at(now))?;
        Some(QueuePosition {
            ahead,
            expected_wait: class_queue.expected_wait(ahead, self.rules.assumed_service),
        })
    }

    /// The `most` waiters that arrived first, of all classes, in the order of their arrival.
    pub fn waiters(&self, now: Instant, most: usize) -> Vec<WaiterSnapshot<C, K>> {
        let mut waiters: Vec<_> = self.positions().collect();
        waiters.sort_unstable_by_key(|(_, position)| (position.arrival, position.id));
        waiters.truncate(most);
        let rows = waiters.into_iter().filter_map(|(class, position)| {
            Some(WaiterSnapshot {
                id: position.id,
                class: class.clone(),
                priority: position.priority,
                waited: now.saturating_duration_since(position.arrival),
                position: self.queue_position(now, class, &position)?,
                key: position.key,
            })
        });
        rows.collect()
    }

    /// The class and the position of the waiter with this number; `None` if it waits no longer.
    pub fn find(&self, id: u64) -> Option<(C, Position<K>)> {
        let mut all = self.positions();
        let (class, position) = all.find(|(_, position)| position.id == id)?;
        Some((class.clone(), position))
    }

    fn positions(&self) -> impl Iterator<Item = (&C, Position<K>)> {
        self.classes.iter().flat_map(|(name, class)| {
            let positions = class.class_queue.positions();
            positions.map(move |position| (name, position))
        })
    }

    fn class_queue(&self, class: &C) -> Option<&ClassQueue<K, R>> {
        self.classes.get(class).map(|class| &class.class_queue)
    }

    fn class(&mut self, name: &C) -> &mut Class<K, R> {
        if !self.classes.contains_key(name) && self.classes.len() >= MAX_IDLE_CLASSES {
            let is_used = |class_queue: &ClassQueue<K, R>| {
                class_queue.waiting() > 0 || class_queue.in_flight() > 0
            };
            self.classes.retain(|_, class| is_used(&class.class_queue));
        }
        match self.classes.entry(name.clone()) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(new) => new.insert(Class {
                class_queue: ClassQueue::new(),
                turn: self.last_turn,
                blocked_in: 0,
                passed: None,
            }),
        }
    }
}

impl<K: Clone + Eq + Hash, R> Class<K, R> {
    /// The next waiter in a round.
    fn head(&self, round: u64, ageing: Ageing, passing: &impl Passing<R>) -> Option<Head> {
        match self.passed_in(round) {
            Some(passed) => passed.head(&self.class_queue, ageing, passing),
            None => self.class_queue.head(ageing),
        }
    }

    fn passed_in(&self, round: u64) -> Option<&PassedInRound<K>> {
        self.passed.as_ref().filter(|passed| passed.is_in(round))
    }

    /// Notes that there was no slot for a waiter in this round: it is passed, or blocks the class.
    fn has_no_slot_for(&mut self, head: Head, round: u64, passing: &impl Passing<R>) {
        let first = self.class_queue.first(head);
        let position = first
            .filter(|(_, request)| passing.may_be_passed(request))
            .and_then(|_| self.class_queue.position(head));
        let Some(position) = position else {
            self.blocked_in = round;
            return;
        };
        match self.passed.as_mut().filter(|passed| passed.is_in(round)) {
            Some(passed) => {
                if !passed.pass_too(position.id) {
                    self.blocked_in = round;
                }
            }
            None => self.passed = Some(PassedInRound::new(round, position)),
        }
    }

    /// Asks for a slot for a waiter.
    fn ask<S>(
        &self,
        head: Head,
        round: u64,
        now: Instant,
        offer: impl FnOnce(&R, Option<&R>, Line) -> Offer<S>,
    ) -> Offer<S> {
        match self.line(head, now) {
            Some((line, request)) => {
                let passed = self.passed_in(round);
                let first = passed.and_then(|passed| passed.request(&self.class_queue));
                offer(request, first, line)
            }
            None => Ok(None),
        }
    }

    /// The line of a waiter, and its request.
    fn line(&self, head: Head, now: Instant) -> Option<(Line, &R)> {
        let (since, request) = self.class_queue.first(head)?;
        let line = Line {
            now,
            waiting: self.class_queue.waiting(),
            own: self.class_queue.waiting_beside(head),
            keys: self.class_queue.keys_waiting(),
            since,
            level: head.level(),
            counter: head.counter(),
        };
        Some((line, request))
    }
}
