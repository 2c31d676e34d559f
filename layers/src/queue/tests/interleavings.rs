//! Property tests: in any order of events, slots are released and every waiter is served.

use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::time::{Instant, advance};

use super::*;

const CLASSES: [Name; 3] = ["a", "b", "c"];
const KEYS: [Name; 3] = ["ada", "bob", "eve"];

#[derive(Clone, Debug)]
struct Arriving {
    class: Name,
    key: Name,
    priority: Priority,
    cost: u32,
    weight: u32,
    /// The time since its first arrival, in seconds.
    age: u64,
}

impl Arriving {
    fn entry(&self) -> Entry<Name, ()> {
        let arrival = Instant::now();
        let arrival = arrival.checked_sub(secs(self.age)).unwrap_or(arrival);
        entry(self.key)
            .with_priority(self.priority)
            .with_cost(self.cost)
            .with_weight(NonZeroU32::new(self.weight).unwrap())
            .with_arrival(arrival)
    }
}

fn arriving() -> impl Strategy<Value = Arriving> {
    let priorities = vec![Priority::High, Priority::Normal, Priority::Low];
    (
        select(CLASSES.to_vec()),
        select(KEYS.to_vec()),
        select(priorities),
        prop_oneof![Just(0), 1..1000_u32, Just(u32::MAX)],
        1..4_u32,
        0..40_u64,
    )
        .prop_map(|(class, key, priority, cost, weight, age)| Arriving {
            class,
            key,
            priority,
            cost,
            weight,
            age,
        })
}

#[derive(Clone, Debug)]
enum Action {
    Enter(Arriving),
    Poll(Index),
    Leave(Index),
    Finish(Index, Option<u32>),
    SetSlots(Name, usize),
    Wait(u64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let one = prop_oneof![
        5 => arriving().prop_map(Action::Enter),
        4 => any::<Index>().prop_map(Action::Poll),
        2 => any::<Index>().prop_map(Action::Leave),
        4 => (any::<Index>(), any::<Option<u32>>()).prop_map(|(at, cost)| Action::Finish(at, cost)),
        1 => (select(CLASSES.to_vec()), 0..3_usize).prop_map(|(class, n)| Action::SetSlots(class, n)),
        1 => (0..20_u64).prop_map(Action::Wait),
    ];
    prop::collection::vec(one, 0..120)
}

struct TestState {
    queue: TestQueue,
    tickets: Vec<(Name, TestTicket)>,
    permits: Vec<(Name, Permit<Slots>)>,
    slots: HashMap<Name, usize>,
}

impl TestState {
    fn new() -> Self {
        let counts = CLASSES.map(|class| (class, 1));
        Self {
            queue: queue(&counts)
                .with_max_waiting(6)
                .with_max_waiting_per_key(Some(4))
                .with_max_wait(Some(secs(50))),
            tickets: Vec::new(),
            permits: Vec::new(),
            slots: counts.into(),
        }
    }

    async fn play(&mut self, step: Action) {
        match step {
            Action::Enter(arriving) => {
                if let Ok(ticket) = self.queue.enter(arriving.class, arriving.entry()) {
                    self.tickets.push((arriving.class, Box::pin(ticket)));
                }
            }
            Action::Poll(at) if !self.tickets.is_empty() => {
                let at = at.index(self.tickets.len());
                let (class, ticket) = &mut self.tickets[at];
                match ticket.as_mut().now_or_never() {
                    None => return,
                    Some(Ok(permit)) => self.permits.push((class, permit)),
                    Some(Err(error)) => drop(cause::<QueueTimeout>(&error)),
                }
                drop(self.tickets.swap_remove(at));
            }
            Action::Leave(at) if !self.tickets.is_empty() => {
                drop(self.tickets.swap_remove(at.index(self.tickets.len())));
            }
            Action::Finish(at, cost) if !self.permits.is_empty() => {
                let (_, permit) = self.permits.swap_remove(at.index(self.permits.len()));
                match cost {
                    Some(tokens) => permit.settle(tokens),
                    None => drop(permit),
                }
            }
            Action::SetSlots(class, slots) => {
                self.queue.dispatch().set(class, slots);
                self.slots.insert(class, slots);
                self.queue.slots_changed();
            }
            Action::Wait(time) => advance(secs(time)).await,
            Action::Poll(_) | Action::Leave(_) | Action::Finish(..) => {}
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut all_waiting = 0;
        for class in CLASSES {
            let mine = || self.tickets.iter().filter(|(of, _)| *of == class);
            let waits = |ticket: &TestTicket| {
                ticket
                    .watch()
                    .is_some_and(|at| at.queue_position().is_some())
            };
            let waiting = mine().filter(|(_, ticket)| waits(ticket)).count();
            let granted = mine().count() - waiting;
            let held = self.permits.iter().filter(|(of, _)| *of == class).count();
            let taken = self.queue.dispatch().taken(class);
            prop_assert_eq!(taken, granted + held, "every taken slot has a holder");
            prop_assert!(
                waiting == 0 || taken >= self.slots[class],
                "no slot is idle while a request waits"
            );

            let snapshot = self.queue.class(&class);
            let counts = snapshot.map_or((0, 0), |of| (of.waiting, of.in_flight));
            prop_assert_eq!(counts, (waiting, taken));
            prop_assert_eq!(self.queue.dispatch().waiting(class), waiting);
            let watches = mine().filter_map(|(_, ticket)| ticket.watch()?.queue_position());
            for queue_position in watches {
                prop_assert!(queue_position.ahead < waiting);
            }
            all_waiting += waiting;
        }
        prop_assert_eq!(self.queue.waiting(), all_waiting);
        Ok(())
    }
}

fn on_paused_clock(
    test: impl Future<Output = Result<(), TestCaseError>>,
) -> Result<(), TestCaseError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn slots_return_however_requests_end(actions in actions()) {
        on_paused_clock(async {
            advance(secs(100)).await;
            let mut world = TestState::new();
            for step in actions {
                world.play(step).await;
                world.check()?;
            }
            world.tickets.clear();
            world.check()?;
            world.permits.clear();
            world.check()?;
            prop_assert_eq!(world.queue.dispatch().all_taken(), 0);
            prop_assert_eq!(world.queue.tickets_in_memory(), 0);
            Ok(())
        })?;
    }

    /// During a long full load every waiter is served, whatever the cost, weight and priority of
    /// the other requests.
    #[test]
    fn no_waiter_starves(arriving in prop::collection::vec(arriving(), 1..150)) {
        on_paused_clock(async {
            advance(secs(100)).await;
            let pool = SlotPool::<Name, Name>::new(NonZeroUsize::MIN);
            let queue = Queue::new(pool)
                .with_ageing(Some(secs(5)))
                .with_max_predicted_wait(None)
                .with_max_wait(None);
            let first = queue.enter("a", entry("first")).unwrap().await.unwrap();
            let mut held = VecDeque::from([first]);
            let mut waiting: Vec<(Name, Name, Priority, Instant, usize, _)> = Vec::new();
            let mut arriving = arriving.into_iter();
            while arriving.len() > 0 || !waiting.is_empty() {
                if let Some(next) = arriving.next() {
                    // A retried request may overtake other requests of its key.
                    let next = Arriving { age: 0, ..next };
                    let ticket = Box::pin(queue.enter(next.class, next.entry()).unwrap());
                    let same = |other: &&(Name, Name, Priority, Instant, usize, _)| {
                        (other.0, other.1, other.2) == (next.class, next.key, next.priority)
                    };
                    let before = waiting.iter().filter(same).count();
                    let since = Instant::now();
                    let Arriving { class, key, priority, .. } = next;
                    waiting.push((class, key, priority, since, before, ticket));
                }
                advance(secs(1)).await;
                held.pop_front();
                let served = waiting.iter_mut().enumerate().find_map(|(at, waiter)| {
                    Some((at, waiter.5.as_mut().now_or_never()?))
                });
                if let Some((at, permit)) = served {
                    held.push_back(permit.unwrap());
                    let (.., since, before, _) = waiting.swap_remove(at);
                    // Three ageing steps, then at most one request of each flow.
                    let class_queues = CLASSES.len() * KEYS.len() * Priority::COUNT;
                    let turn = 3 * 5 + class_queues as u64;
                    let most = secs(turn * (before as u64 + 1) + 2);
                    prop_assert!(since.elapsed() <= most, "{:?} of {most:?}", since.elapsed());
                }
            }
            Ok(())
        })?;
    }
}

/// Threads that enter, leave, wait and finish at random.
#[test]
fn threads_share_a_queue() {
    const SLOTS: usize = 3;
    let queue: Queue<SlotPool<Name, Name>> = Queue::new(SlotPool::new(count(SLOTS)))
        .with_max_wait(None)
        .with_max_predicted_wait(None);
    let in_use = AtomicUsize::new(0);
    let (queue, in_use) = (&queue, &in_use);
    let work = |seed: usize| async move {
        for round in 0..300 {
            let (class, key) = (CLASSES[(seed + round) % 3], KEYS[seed % 3]);
            let mut ticket = Box::pin(queue.enter(class, entry(key)).unwrap());
            if (seed + round).is_multiple_of(4) {
                // Some tickets are dropped before or after a poll, with a granted slot or without.
                if round.is_multiple_of(2) {
                    drop(ticket.as_mut().now_or_never());
                }
                continue;
            }
            let permit = ticket.await.unwrap();
            let others = in_use.fetch_add(1, Ordering::SeqCst);
            assert!(others < SLOTS);
            tokio::task::yield_now().await;
            in_use.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let work = &work;
            scope.spawn(move || tokio_test::block_on(work(seed)));
        }
    });
    assert_eq!((queue.waiting(), queue.tickets_in_memory()), (0, 0));
    assert_eq!(queue.dispatch().in_use(), 0);
    assert!(queue.snapshot().iter().all(|class| class.in_flight == 0));
}

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}
