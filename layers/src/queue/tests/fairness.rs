//! Fairness between keys, on virtual time: how long a newcomer waits behind a flood, and how much
//! of the service a key can get.

use std::num::NonZeroU32;

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::time::Instant;

use super::*;
use crate::queue::machine::{Charge, ClassQueues, Finished, Position, Rules};

const FLOODS: &[Name] = &["f1", "f2", "f3", "f4"];
const CONSTANT: [Name; 2] = ["c1", "c2"];
const OTHERS: &[Name] = &["hopper", "visitor"];

/// The weight of a key's share in the property tests.
fn weight(key: Name) -> u32 {
    match key {
        "f2" | "c2" | "visitor" => 2,
        "f3" => 3,
        _ => 1,
    }
}

/// The largest estimate and the largest real cost of a request.
const LARGEST: u32 = 1000;

#[derive(Clone, Copy, Debug)]
struct Job {
    key: Name,
    priority: Priority,
    weight: u32,
    estimate: u32,
    real: u32,
}

impl Job {
    fn entry(self) -> Entry<Name, Job> {
        Entry::new(self.key, self)
            .with_priority(self.priority)
            .with_weight(NonZeroU32::new(self.weight).unwrap())
            .with_cost(self.estimate)
    }

    fn units(self) -> f64 {
        f64::from(self.real) / f64::from(self.weight)
    }
}

fn job(key: Name, estimate: u32, real: u32) -> Job {
    Job {
        key,
        priority: Priority::Normal,
        weight: 1,
        estimate,
        real,
    }
}

/// The queue of one class in front of a few slots.
struct Server {
    queues: ClassQueues<(), Name, Job>,
    now: Instant,
    free: usize,
    running: Vec<(Job, Charge)>,
    waiting: Vec<Position<Name>>,
    /// The keys in the order in which their requests got slots.
    served: Vec<Name>,
    /// The real cost of the requests that have ended, for each unit of weight.
    received: HashMap<Name, f64>,
}

impl Server {
    fn new(slots: usize) -> Self {
        let rules = Rules {
            max_waiting: usize::MAX,
            max_predicted_wait: None,
            ageing: None,
            ..Rules::default()
        };
        Self {
            queues: ClassQueues::new(rules),
            now: Instant::now(),
            free: slots,
            running: Vec::new(),
            waiting: Vec::new(),
            served: Vec::new(),
            received: HashMap::new(),
        }
    }

    fn enter(&mut self, job: Job) {
        self.now += secs(1);
        let entry = job.entry();
        let is_free = self.free > 0;
        let admitted = self
            .queues
            .admit(self.now, &(), &entry, |_, _| Ok(is_free.then_some(())));
        match admitted.unwrap() {
            Some(()) => {
                self.free -= 1;
                self.served.push(job.key);
                self.running.push((job, entry.charge()));
            }
            None => {
                let position = self.queues.push(self.now, &(), entry).unwrap();
                self.waiting.push(position);
            }
        }
    }

    fn leave(&mut self, at: Index) {
        if !self.waiting.is_empty() {
            let position = self.waiting.swap_remove(at.index(self.waiting.len()));
            assert!(self.queues.remove(&(), &position).is_some());
        }
    }

    /// All waiters of a key leave.
    fn leave_all(&mut self, key: Name) {
        let is_gone = |position: &mut Position<Name>| position.key == key;
        for position in self.waiting.extract_if(.., is_gone) {
            assert!(self.queues.remove(&(), &position).is_some());
        }
    }

    /// Ends the request that was started first.
    fn finish_first(&mut self) {
        self.finish_at(0);
    }

    fn finish(&mut self, at: Index) {
        if !self.running.is_empty() {
            self.finish_at(at.index(self.running.len()));
        }
    }

    fn finish_at(&mut self, at: usize) {
        self.now += secs(1);
        let (job, charge) = self.running.remove(at);
        let finished = Finished::after(secs(1)).with_cost(job.real);
        self.queues.finish(&(), &job.key, charge, finished);
        *self.received.entry(job.key).or_default() += job.units();
        self.free += 1;
        let free = std::cell::Cell::new(self.free);
        let (running, served, waiting) = (&mut self.running, &mut self.served, &mut self.waiting);
        self.queues.hand_out(
            self.now,
            |(), _, _| Ok((free.get() > 0).then(|| free.set(free.get() - 1))),
            |delivery| {
                let waiter = delivery.waiter;
                served.push(waiter.request.key);
                running.push((waiter.request, waiter.charge));
                waiting.retain(|position| position.id() != waiter.id);
            },
        );
        self.free = free.get();
    }

    fn waiting_of(&self, key: Name) -> usize {
        let mine = self.waiting.iter().filter(|at| *at.key() == key);
        mine.count()
    }

    fn keys_waiting(&self) -> usize {
        let keys = self.waiting.iter().map(|at| *at.key());
        keys.collect::<std::collections::HashSet<_>>().len()
    }

    fn received(&self, key: Name) -> f64 {
        self.received.get(key).copied().unwrap_or_default()
    }
}

/// Twelve times as many tokens are estimated for each request as it uses.
#[test]
fn newcomers_are_next_although_the_flood_costs_less_than_was_estimated() {
    let mut server = Server::new(1);
    for _ in 0..24 {
        server.enter(job("flood", 256, 20));
    }
    for _ in 0..5 {
        server.finish_first();
    }
    server.enter(job("ada", 256, 20));
    server.enter(job("bob", 256, 20));
    for _ in 0..4 {
        server.finish_first();
    }
    assert_eq!(server.served[6..], ["ada", "bob", "flood", "flood"]);
}

#[test]
fn a_key_that_leaves_and_returns_gains_nothing() {
    let mut server = Server::new(1);
    for _ in 0..20 {
        server.enter(job("flood", 100, 100));
    }
    // It gets one request served, and has left the queue whenever its next one arrives.
    for _ in 0..8 {
        server.enter(job("hopper", 100, 300));
        while server.waiting_of("hopper") > 0 {
            server.finish_first();
        }
        server.finish_first();
    }
    let (hopper, flood) = (server.received("hopper"), server.received("flood"));
    assert!(hopper <= flood + 400.0, "{hopper} and {flood}");
}

#[test]
fn a_newcomer_starts_among_its_own_priority() {
    let mut server = Server::new(1);
    let low = |job: Job| Job {
        priority: Priority::Low,
        ..job
    };
    server.enter(job("flood", 100, 100));
    server.enter(low(job("batch", 100, 100)));
    for _ in 0..40 {
        server.enter(job("flood", 100, 100));
    }
    for _ in 0..20 {
        server.finish_first();
    }
    // The batch has received nothing, but its counter is no start for others.
    for _ in 0..20 {
        server.enter(job("newcomer", 100, 100));
    }
    for _ in 0..10 {
        server.finish_first();
    }
    assert_eq!(server.received("newcomer"), 500.0);
}

fn jobs(keys: &'static [Name]) -> impl Strategy<Value = Job> {
    let costs = (0..keys.len(), 1..=LARGEST, 0..=LARGEST);
    costs.prop_map(|(at, estimate, real)| weighted(job(keys[at], estimate, real)))
}

fn weighted(job: Job) -> Job {
    let weight = weight(job.key);
    Job { weight, ..job }
}

#[derive(Clone, Debug)]
enum Action {
    Enter(Job),
    Leave(Index),
    Finish(Index),
}

fn actions(keys: &'static [Name]) -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => jobs(keys).prop_map(Action::Enter),
        1 => any::<Index>().prop_map(Action::Leave),
        3 => any::<Index>().prop_map(Action::Finish),
    ]
}

impl Server {
    fn play(&mut self, action: &Action) {
        match action {
            Action::Enter(job) => self.enter(*job),
            Action::Leave(at) => self.leave(*at),
            Action::Finish(at) => self.finish(*at),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happened before and whatever arrives after it, at most one request of each key that
    /// waits already is served before a newcomer.
    #[test]
    fn a_newcomer_waits_for_at_most_one_request_of_each_key(
        slots in 1..4_usize,
        before in prop::collection::vec(actions(FLOODS), 0..150),
        after in prop::collection::vec(actions(FLOODS), 60),
    ) {
        let mut server = Server::new(slots);
        for action in &before {
            server.play(action);
        }
        let ahead = server.keys_waiting();
        let started = server.served.len();
        server.enter(job("newcomer", 300, 300));
        let mut after = after.iter();
        while server.waiting_of("newcomer") > 0 {
            match after.next() {
                Some(Action::Enter(job)) => server.enter(*job),
                _ => server.finish_first(),
            }
            let first = server.served[started..].iter().take_while(|key| **key != "newcomer");
            prop_assert!(first.count() <= ahead);
        }
    }

    /// Keys with constant demand get the same service for each unit of weight, and a key that comes
    /// and goes gets no more than they do, but for the costs of the requests in flight.
    #[test]
    fn no_key_gets_more_than_its_share(
        slots in 1..4_usize,
        demand in prop::collection::vec((1..=LARGEST, 0..=LARGEST), 400),
        others in prop::collection::vec(actions(OTHERS), 400),
    ) {
        let mut server = Server::new(slots);
        // A key of low priority that never gets a slot.
        let batch = Job { priority: Priority::Low, ..job("batch", 100, 100) };
        let bound = 4.0 * f64::from(LARGEST) * slots as f64;
        for (round, (&(estimate, real), other)) in demand.iter().zip(&others).enumerate() {
            for key in CONSTANT {
                while server.waiting_of(key) < 2 {
                    server.enter(weighted(job(key, estimate, real)));
                }
            }
            server.enter(batch);
            // The others come half-way, when much service was received already.
            match other {
                _ if round < 200 => server.finish_first(),
                Action::Enter(job) => server.enter(*job),
                Action::Leave(_) => server.leave_all("hopper"),
                Action::Finish(at) => server.finish(*at),
            }
            if round == 200 {
                server.received.clear();
            }
            let (one, two) = (server.received("c1"), server.received("c2"));
            prop_assert!((one - two).abs() <= bound, "{one} and {two}");
            for &key in OTHERS {
                let most = one.min(two) + bound;
                prop_assert!(server.received(key) <= most, "{} of {most}", server.received(key));
            }
        }
        prop_assert_eq!(server.received("batch"), 0.0);
    }
}
