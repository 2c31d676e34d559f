//! Which waiter is served next, and what happens to waiters that leave.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use tokio::time::{Instant, advance};

use super::*;
use crate::queue::machine::{ClassQueues, Rules};

#[tokio::test(start_paused = true)]
async fn with_a_free_slot_a_request_does_not_wait() {
    let queue = queue(&[("a", 1)]);
    let permit = hold(&queue, "a");
    assert_eq!(queue.dispatch().taken("a"), 1);
    assert_eq!(queue.waiting(), 0);
    drop(permit);
    assert_eq!(queue.dispatch().taken("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn equal_requests_are_served_in_the_order_of_arrival() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let tickets = ["x", "y", "z"].map(|name| (name, enter(&queue, "a", entry("ada"))));
    let order = served_in_turn(held, tickets.into(), secs(1)).await;
    assert_eq!(order, ["x", "y", "z"]);
}

#[tokio::test(start_paused = true)]
async fn a_class_without_a_slot_does_not_block_another() {
    let queue = queue(&[("a", 0), ("b", 1)]);
    let mut blocked = enter(&queue, "a", entry("ada"));
    assert!(is_served(&mut blocked).is_none());
    let held = hold(&queue, "b");
    let mut other = enter(&queue, "b", entry("ada"));
    assert!(is_served(&mut other).is_none());
    drop(held);
    assert!(is_served(&mut other).is_some());
    assert!(is_served(&mut blocked).is_none());
}

#[tokio::test(start_paused = true)]
async fn classes_that_share_slots_and_were_not_served_yet_go_in_the_order_of_arrival() {
    let now = Instant::now();
    let mut queues = ClassQueues::new(Rules::default());
    for class in 0..20_u32 {
        queues.push(now, &class, Entry::new("ada", ())).unwrap();
    }
    let mut served = Vec::new();
    queues.hand_out(
        now,
        |_, (), _| Ok(Some(())),
        |delivery| served.push(*delivery.class),
    );
    assert_eq!(served, Vec::from_iter(0..20));
}

#[tokio::test(start_paused = true)]
async fn slots_changed_offers_slots_that_became_free_elsewhere() {
    let queue = queue(&[("a", 0)]);
    let mut waiting = enter(&queue, "a", entry("ada"));
    assert!(is_served(&mut waiting).is_none());
    queue.dispatch().set("a", 1);
    queue.slots_changed();
    assert!(is_served(&mut waiting).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_can_never_be_served_gets_the_error() {
    let queue = queue(&[("a", 0)]);
    let waiting = enter(&queue, "a", entry("ada"));
    queue.dispatch().remove("a");
    queue.slots_changed();
    assert!(waiting.await.unwrap_err().is::<Gone>());
    assert_eq!(queue.waiting(), 0);
    assert!(queue.enter("a", entry("ada")).unwrap_err().is::<Gone>());
}

#[tokio::test(start_paused = true)]
async fn keys_take_turns_whatever_one_of_them_requests() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let mut tickets = Vec::new();
    for name in ["g1", "g2", "g3", "g4"] {
        tickets.push((name, enter(&queue, "a", entry("greedy").with_cost(100))));
    }
    for name in ["m1", "m2"] {
        tickets.push((name, enter(&queue, "a", entry("modest").with_cost(100))));
    }
    let order = served_in_turn(held, tickets, secs(60)).await;
    assert_eq!(order, ["g1", "m1", "g2", "m2", "g3", "g4"]);
}

#[tokio::test(start_paused = true)]
async fn large_requests_are_charged_more_and_weights_compensate() {
    let twice = NonZeroU32::new(2).unwrap();
    for (weight, expected) in [
        (NonZeroU32::MIN, ["l1", "s1", "s2", "l2", "s3", "s4"]),
        (twice, ["l1", "s1", "l2", "s2", "s3", "s4"]),
    ] {
        let queue = queue(&[("a", 1)]);
        let held = hold(&queue, "a");
        let large = || entry("large").with_cost(200).with_weight(weight);
        let small = || entry("small").with_cost(100);
        let mut tickets = Vec::new();
        tickets.push(("l1", enter(&queue, "a", large())));
        tickets.push(("l2", enter(&queue, "a", large())));
        for name in ["s1", "s2", "s3", "s4"] {
            tickets.push((name, enter(&queue, "a", small())));
        }
        assert_eq!(served_in_turn(held, tickets, secs(1)).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_real_cost_replaces_the_estimate() {
    for (estimate, real, expected) in [
        (100, None, ["b1", "b2", "a2"]),
        (100, Some(30), ["b1", "a2", "b2"]),
        (30, None, ["b1", "a2", "b2"]),
        (30, Some(500), ["b1", "b2", "a2"]),
    ] {
        let queue = queue(&[("a", 1)]);
        let first = enter(&queue, "a", entry("ada").with_cost(estimate));
        let mut held = first.await.unwrap();
        let tickets = [("b1", "bob"), ("b2", "bob"), ("a2", "ada")]
            .map(|(name, key)| (name, enter(&queue, "a", entry(key).with_cost(60))));
        if let Some(tokens) = real {
            held.meter().set(tokens);
        }
        let order = served_in_turn(held, tickets.into(), secs(1)).await;
        assert_eq!(order, expected, "{real:?} instead of {estimate}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_key_saves_up_no_service() {
    let queue = queue(&[("a", 1)]);
    // The idle key is known, with almost nothing on its counter.
    let ticket = queue.enter("a", entry("idle").with_cost(1)).unwrap();
    drop(ticket.await.unwrap());
    for _ in 0..50 {
        let ticket = queue.enter("a", entry("busy").with_cost(100)).unwrap();
        drop(ticket.await.unwrap());
    }
    let held = hold(&queue, "a");
    let mut tickets = Vec::new();
    for name in ["b1", "b2", "b3"] {
        tickets.push((name, enter(&queue, "a", entry("busy").with_cost(100))));
    }
    for name in ["i1", "i2", "i3"] {
        tickets.push((name, enter(&queue, "a", entry("idle").with_cost(100))));
    }
    let order = served_in_turn(held, tickets, secs(1)).await;
    let place = |name| order.iter().position(|served| *served == name).unwrap();
    assert!(place("b1") < place("i2"), "{order:?}");
    assert!(place("b2") < place("i3"), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn a_higher_priority_goes_first() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let tickets = [
        ("low", Priority::Low),
        ("normal", Priority::Normal),
        ("high", Priority::High),
    ]
    .map(|(name, priority)| {
        let entry = entry("ada").with_priority(priority);
        (name, enter(&queue, "a", entry))
    });
    let order = served_in_turn(held, tickets.into(), secs(1)).await;
    assert_eq!(order, ["high", "normal", "low"]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_rises_above_higher_priorities_with_time() {
    let queue = queue(&[("a", 1)]).with_ageing(Some(secs(10)));
    let mut held = hold(&queue, "a");
    let mut low = enter(&queue, "a", entry("ada").with_priority(Priority::Low));
    let mut rounds = 0;
    // A new request of high priority arrives before each slot becomes free.
    let late = loop {
        let urgent = entry("bob").with_priority(Priority::High);
        let urgent = enter(&queue, "a", urgent);
        advance(secs(4)).await;
        drop(held);
        rounds += 1;
        if let Some(permit) = is_served(&mut low) {
            break permit;
        }
        held = urgent.await.unwrap();
    };
    drop(late);
    assert_eq!(
        rounds, 5,
        "after 20 s it has the same priority and an earlier arrival"
    );
}

#[tokio::test(start_paused = true)]
async fn an_overdue_waiter_goes_before_keys_with_less_service() {
    let queue = queue(&[("a", 1)]).with_ageing(Some(secs(10)));
    let held = hold(&queue, "a");
    // The key of the first requests was charged much; the others cost nothing.
    let urgent = || {
        entry("ada")
            .with_priority(Priority::High)
            .with_cost(1_000_000)
    };
    let first = enter(&queue, "a", urgent());
    let mut others: Vec<_> = (0..20)
        .map(|_| entry("bob").with_priority(Priority::High).with_cost(0))
        .map(|entry| enter(&queue, "a", entry))
        .collect();
    drop(held);
    let mut held = first.await.unwrap();
    let mut overdue = enter(&queue, "a", urgent());
    for _ in 0..5 {
        advance(secs(2)).await;
        assert!(is_served(&mut overdue).is_none());
        drop(held);
        let served = others.iter_mut().enumerate();
        let mut served = served.filter_map(|(at, ticket)| Some((at, is_served(ticket)?)));
        let Some((at, permit)) = served.next() else {
            break;
        };
        held = permit;
        drop(others.remove(at));
    }
    assert_eq!(others.len(), 16, "four rounds of two seconds");
    assert!(is_served(&mut overdue).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_gets_its_share_does_not_age() {
    let queue = queue(&[("a", 1)]).with_ageing(Some(secs(10)));
    let mut held = hold(&queue, "a");
    let mut greedy: Vec<_> = (0..100)
        .map(|_| enter(&queue, "a", entry("greedy")))
        .collect();
    for _ in 0..10 {
        let mut modest = enter(&queue, "a", entry("modest"));
        advance(secs(9)).await;
        drop(held);
        let at = greedy.iter_mut().enumerate();
        let served = at
            .filter_map(|(at, ticket)| Some((at, is_served(ticket)?)))
            .next();
        held = match served {
            Some((at, permit)) => {
                drop(greedy.remove(at));
                drop(permit);
                is_served(&mut modest).expect("the keys alternate")
            }
            None => is_served(&mut modest).expect("a waiter is served"),
        };
    }
}

#[tokio::test(start_paused = true)]
async fn classes_that_share_slots_alternate() {
    let queue: Queue<SlotPool<Name, Name>> = Queue::new(SlotPool::new(std::num::NonZeroUsize::MIN));
    let mut held = queue.enter("a", entry("ada")).unwrap().await.unwrap();
    let mut tickets = Vec::new();
    for class in ["a", "a", "a", "b", "b", "b"] {
        tickets.push((class, Box::pin(queue.enter(class, entry("ada")).unwrap())));
    }
    let mut order = Vec::new();
    while !tickets.is_empty() {
        drop(held);
        let found = tickets
            .iter_mut()
            .enumerate()
            .find_map(|(at, (_, ticket))| Some((at, ticket.as_mut().now_or_never()?.unwrap())));
        let (at, permit) = found.unwrap();
        order.push(tickets.remove(at).0);
        held = permit;
    }
    let alternating = order.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(alternating, "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retried_request_keeps_its_position() {
    let queue = queue(&[("a", 1)]);
    let arrival = Instant::now();
    let held = hold(&queue, "a");
    advance(secs(5)).await;
    let fresh = enter(&queue, "a", entry("ada"));
    let again = enter(&queue, "a", entry("ada").with_arrival(arrival));
    let order = served_in_turn(held, vec![("fresh", fresh), ("again", again)], secs(1)).await;
    assert_eq!(order, ["again", "fresh"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_ticket_leaves_at_once() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let first = enter(&queue, "a", entry("ada"));
    let mut second = enter(&queue, "a", entry("bob"));
    let watch = second.watch().unwrap();
    assert_eq!(watch.queue_position().unwrap().ahead, 1);
    drop(first);
    assert_eq!(queue.waiting(), 1);
    assert_eq!(watch.queue_position().unwrap().ahead, 0);
    drop(held);
    assert!(is_served(&mut second).is_some());
    assert!(watch.queue_position().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_slot_granted_to_a_dropped_ticket_goes_to_the_next() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let first = enter(&queue, "a", entry("ada"));
    let mut second = enter(&queue, "a", entry("bob"));
    drop(held);
    assert_eq!(queue.waiting(), 1, "the first was granted the slot");
    drop(first);
    assert_eq!(queue.waiting(), 0);
    assert!(is_served(&mut second).is_some());
    let class = queue.class(&"a").unwrap();
    assert_eq!(class.in_flight, 0);
    assert_eq!(queue.dispatch().all_taken(), 0);
}

/// Counts how often it is woken.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_served_waiter_is_woken() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let mut tickets = [0, 1].map(|_| enter(&queue, "a", entry("ada")));
    let wakers = [0, 1].map(|_| Arc::new(CountingWaker::default()));
    for (ticket, bell) in tickets.iter_mut().zip(&wakers) {
        let waker = Waker::from(bell.clone());
        assert!(
            ticket
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
    }
    drop(held);
    let rung = wakers.map(|bell| bell.0.load(Ordering::Relaxed));
    assert_eq!(rung, [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_expected_wait_follows_the_service_time() {
    let queue = queue(&[("a", 2)]);
    let (one, two) = (hold(&queue, "a"), hold(&queue, "a"));
    let ticket = enter(&queue, "a", entry("ada"));
    let watch = ticket.watch().unwrap();
    assert_eq!(
        watch.queue_position().unwrap().expected_wait,
        None,
        "no service time is known yet"
    );
    drop(ticket);

    advance(secs(10)).await;
    drop(one);
    let one = hold(&queue, "a");
    let tickets = [0, 1, 2].map(|_| enter(&queue, "a", entry("ada")));
    let queue_position = tickets[2].watch().unwrap().queue_position().unwrap();
    assert_eq!(queue_position.ahead, 2);
    assert_eq!(
        queue_position.expected_wait,
        Some(secs(15)),
        "three turns of two slots"
    );

    let class = queue.class(&"a").unwrap();
    assert_eq!(
        (class.waiting, class.in_flight, class.keys_waiting),
        (3, 2, 1)
    );
    assert_eq!(class.service_time, Some(secs(10)));
    assert_eq!(class.predicted_wait, Some(secs(20)));
    advance(secs(3)).await;
    assert_eq!(queue.class(&"a").unwrap().oldest, Some(secs(3)));
    assert_eq!(queue.snapshot().len(), 1);
    drop((one, two));
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_served_at_its_standing() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let waiting = [
        ("g1", "greedy", 100, Priority::Normal),
        ("g2", "greedy", 100, Priority::Normal),
        ("g3", "greedy", 100, Priority::Normal),
        ("m1", "modest", 50, Priority::Normal),
        ("m2", "modest", 50, Priority::Normal),
        ("m3", "modest", 50, Priority::Normal),
        ("low", "modest", 50, Priority::Low),
        ("high", "urgent", 50, Priority::High),
    ];
    let tickets = waiting.map(|(name, key, cost, priority)| {
        let entry = entry(key).with_cost(cost).with_priority(priority);
        (name, enter(&queue, "a", entry))
    });
    let mut said: Vec<_> = tickets
        .iter()
        .map(|(name, ticket)| {
            (
                ticket.watch().unwrap().queue_position().unwrap().ahead,
                *name,
            )
        })
        .collect();
    said.sort_unstable();
    let said: Vec<_> = said.into_iter().map(|(_, name)| name).collect();
    let order = served_in_turn(held, tickets.into(), Duration::ZERO).await;
    assert_eq!(said, order);
}

#[tokio::test(start_paused = true)]
async fn overdue_waiters_are_served_by_age() {
    let queue = queue(&[("a", 1)]).with_ageing(Some(secs(1)));
    // The first key was charged much.
    let first = enter(&queue, "a", entry("ada").with_cost(1000))
        .await
        .unwrap();
    let mut tickets = Vec::new();
    for (name, key) in [("b", "bob"), ("a", "ada"), ("c", "carol")] {
        advance(secs(1)).await;
        tickets.push((name, enter(&queue, "a", entry(key).with_cost(1))));
    }
    let order = served_in_turn(first, tickets, secs(10)).await;
    assert_eq!(order, ["b", "a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn an_unused_slot_costs_nothing_and_does_not_count_for_the_service_time() {
    let queue = queue(&[("a", 1)]);
    let first = enter(&queue, "a", entry("ada").with_cost(1000))
        .await
        .unwrap();
    let tickets = [("b1", "bob"), ("b2", "bob"), ("a1", "ada")]
        .map(|(name, key)| (name, enter(&queue, "a", entry(key).with_cost(10))));
    advance(secs(1)).await;
    first.unused();
    assert_eq!(queue.class(&"a").unwrap().service_time, None);
    let mut tickets = Vec::from(tickets);
    let (_, mut bob) = tickets.remove(0);
    let held = is_served(&mut bob).unwrap();
    let order = served_in_turn(held, tickets, secs(1)).await;
    assert_eq!(order, ["a1", "b2"]);
}

/// One slot, only for requests that are `true`.
struct OnlyTrue;

impl Dispatch for OnlyTrue {
    type Class = ();
    type Key = ();
    type Request = bool;
    type Slot = ();

    fn try_take(&self, (): &(), fits: &bool, _: Line) -> Result<Option<()>, BoxError> {
        Ok(fits.then_some(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_sees_the_line() {
    let queue = queue(&[("a", 1)]).with_max_wait(Some(secs(60)));
    let slots = queue.dispatch().clone();
    let start = Instant::now();
    advance(secs(5)).await;
    let first = enter(&queue, "a", entry("ada").with_arrival(start));
    let line = slots.last_line("a");
    assert_eq!((line.waiting, line.now - line.since), (1, secs(5)));
    assert_eq!(slots.waiting("a"), 0, "it got its slot at once");

    let second = enter(&queue, "a", entry("bob"));
    let third = enter(&queue, "a", entry("eve"));
    let leaving = enter(&queue, "a", entry("eve"));
    assert_eq!(slots.waiting("a"), 3);
    drop(leaving);
    assert_eq!(slots.waiting("a"), 2, "one has left");
    advance(secs(20)).await;
    drop(first);
    assert_eq!(slots.waiting("a"), 1, "one was served");
    let line = slots.last_line("a");
    assert_eq!((line.waiting, line.now - line.since), (1, secs(20)));
    third.await.unwrap_err();
    assert_eq!(slots.waiting("a"), 0, "one has reached its deadline");

    let waiting = enter(&queue, "a", entry("eve"));
    slots.remove("a");
    queue.slots_changed();
    assert_eq!(slots.waiting("a"), 0, "one was refused");
    drop((second, waiting));
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_sees_whose_backlog_the_line_is() {
    let queue = queue(&[("a", 1)]);
    let slots = queue.dispatch().clone();
    let running = enter(&queue, "a", entry("ada").with_cost(1000));
    let of_ada: Vec<_> = (0..3).map(|_| enter(&queue, "a", entry("ada"))).collect();
    let of_bob: Vec<_> = (0..2).map(|_| enter(&queue, "a", entry("bob"))).collect();
    drop(running);
    let line = slots.last_line("a");
    let counts = (line.waiting, line.own, line.keys);
    assert_eq!(counts, (4, 1, 2), "bob was served, and is next");
    assert!(!line.has_average_backlog());
    drop(of_bob);
    let line = slots.last_line("a");
    assert_eq!((line.waiting, line.own, line.keys), (2, 2, 1));
    assert!(line.has_average_backlog());
    drop(of_ada);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_unblocks_the_waiters_behind() {
    let queue = Queue::new(OnlyTrue);
    let unfit = queue.enter((), Entry::new((), false)).unwrap();
    let mut fit = Box::pin(queue.enter((), Entry::new((), true)).unwrap());
    assert!(fit.as_mut().now_or_never().is_none());
    drop(unfit);
    assert!(fit.as_mut().now_or_never().is_some());
}

#[test]
fn tickets_and_permits_are_send() {
    fn is_send<T: Send + 'static>() {}
    is_send::<Ticket<Slots>>();
    is_send::<Permit<Slots>>();
    is_send::<TicketWatch<Slots>>();
}
