//! The service that keys receive from several processes.

use std::num::NonZeroU32;

use tokio::time::Instant;

use super::*;
use crate::queue::machine::{ClassQueues, Finished, Raise, Rules};

const CLASS: Name = "m";

/// The queue of one process, with one slot.
struct Process {
    queues: ClassQueues<Name, Name, ()>,
    now: Instant,
}

/// What all processes have served, by key.
#[derive(Default)]
struct Sums(HashMap<Option<Name>, f64>);

fn entry(key: Name, cost: u32) -> Entry<Name, ()> {
    Entry::new(key, ()).with_cost(cost)
}

impl Process {
    fn new() -> Self {
        let mut queues = ClassQueues::new(Rules::default());
        queues.exchange_service();
        Self {
            queues,
            now: Instant::now(),
        }
    }

    /// Serves a request of a key while nobody waits.
    fn serve(&mut self, key: Name, cost: u32) {
        let entry = entry(key, cost);
        let take = |(): &(), _| Ok(Some(()));
        let slot = self.queues.admit(self.now, &CLASS, &entry, take).unwrap();
        assert!(slot.is_some());
        let finished = Finished::after(Duration::from_secs(1));
        self.queues.finish(&CLASS, &key, entry.charge(), finished);
    }

    fn wait(&mut self, key: Name, cost: u32) {
        let entry = entry(key, cost);
        self.queues.push(self.now, &CLASS, entry).unwrap();
    }

    /// The keys in the order in which they get the slot, each request at its expected cost.
    fn order(&mut self, requests: usize) -> Vec<Name> {
        let mut order = Vec::new();
        for _ in 0..requests {
            let mut free = true;
            let queues = &mut self.queues;
            let line = queues.next_line(self.now, &CLASS).unwrap();
            let waiters = queues.waiters(self.now, 100);
            let mut served = 0;
            let offer = |_: &Name, (): &(), offered: Line| {
                assert!(!free || offered == line, "{offered:?}, {line:?}");
                Ok(std::mem::take(&mut free).then_some(()))
            };
            let mut charge = None;
            queues.hand_out(self.now, offer, |delivery| {
                served = delivery.waiter.id;
                charge = Some(delivery.waiter.charge);
            });
            let row = waiters.iter().find(|row| row.id == served).unwrap();
            let finished = Finished::after(Duration::from_secs(1));
            queues.finish(&CLASS, &row.key, charge.unwrap(), finished);
            order.push(row.key);
        }
        order
    }

    fn tell(&mut self, sums: &mut Sums) {
        for row in self.queues.take_service() {
            let sum = sums.0.entry(row.key).or_default();
            *sum = sum.max(row.before) + row.added;
        }
    }

    fn hear(&mut self, sums: &Sums, lead: f64) {
        // The floor first.
        let mut rows: Vec<_> = sums.0.iter().collect();
        rows.sort_by_key(|(key, _)| key.is_some());
        for (key, to) in rows {
            let (class, key, to) = (CLASS, *key, *to);
            self.queues.raise(&Raise {
                class,
                key,
                to,
                lead,
            });
        }
    }
}

const NO_LIMIT: f64 = f64::INFINITY;

#[test]
fn what_another_process_has_served_puts_a_key_behind() {
    let (mut one, mut other, mut sums) = (Process::new(), Process::new(), Sums::default());
    for _ in 0..3 {
        other.wait("bob", 10);
    }
    // Both have the same scale from the beginning.
    other.tell(&mut sums);
    other.hear(&sums, NO_LIMIT);
    for _ in 0..3 {
        one.serve("ada", 10);
    }
    one.tell(&mut sums);
    other.tell(&mut sums);
    other.wait("ada", 10);
    // It is new there.
    other.tell(&mut sums);
    other.hear(&sums, NO_LIMIT);
    assert_eq!(other.order(4), ["bob", "bob", "bob", "ada"]);
}

#[test]
fn without_the_exchange_a_key_starts_where_new_keys_do() {
    let mut other = Process::new();
    other.queues = ClassQueues::new(Rules::default());
    for _ in 0..3 {
        other.wait("bob", 10);
    }
    other.wait("ada", 10);
    assert_eq!(other.order(4), ["bob", "ada", "bob", "bob"]);
    assert!(other.queues.take_service().is_empty());
}

#[test]
fn a_key_is_behind_by_no_more_than_the_lead() {
    let (mut one, mut other, mut sums) = (Process::new(), Process::new(), Sums::default());
    for _ in 0..5 {
        other.wait("bob", 10);
    }
    for _ in 0..50 {
        one.serve("ada", 10);
    }
    one.tell(&mut sums);
    other.wait("ada", 10);
    other.hear(&sums, 15.0);
    assert_eq!(other.order(4), ["bob", "bob", "ada", "bob"]);
}

#[test]
fn service_of_both_processes_adds_up_and_is_told_once() {
    let (mut one, mut other, mut sums) = (Process::new(), Process::new(), Sums::default());
    for _ in 0..2 {
        for process in [&mut one, &mut other] {
            process.serve("ada", 10);
            process.tell(&mut sums);
            process.hear(&sums, NO_LIMIT);
        }
    }
    assert_eq!(sums.0[&Some("ada")], 40.0);
    one.hear(&sums, NO_LIMIT);
    one.tell(&mut sums);
    one.tell(&mut sums);
    assert_eq!(sums.0[&Some("ada")], 40.0, "nothing was added");
    // The sums are lost: the processes still know them.
    let mut sums = Sums::default();
    one.serve("ada", 10);
    one.tell(&mut sums);
    assert_eq!(sums.0[&Some("ada")], 50.0);
}

#[test]
fn a_process_that_starts_later_moves_to_the_scale_of_the_others() {
    let (mut one, mut sums) = (Process::new(), Sums::default());
    for _ in 0..100 {
        one.serve("ada", 10);
    }
    one.tell(&mut sums);
    let mut new = Process::new();
    new.serve("bob", 10);
    new.wait("bob", 10);
    new.wait("eve", 10);
    new.tell(&mut sums);
    new.hear(&sums, NO_LIMIT);
    let line = new.queues.next_line(new.now, &CLASS).unwrap();
    let floor = sums.0[&None];
    assert!(line.counter >= floor, "eve has no advance over ada");
    assert_eq!(new.order(2), ["bob", "eve"], "their order remains");
    // It happens once: a higher floor lifts new keys only.
    new.wait("eve", 10);
    sums.0.insert(None, floor + 500.0);
    new.hear(&sums, NO_LIMIT);
    let line = new.queues.next_line(new.now, &CLASS).unwrap();
    assert!(line.counter < floor + 500.0, "{line:?}");
    // After a time without the others, again.
    new.queues.leave_scale();
    sums.0.insert(None, floor + 5000.0);
    new.hear(&sums, NO_LIMIT);
    let line = new.queues.next_line(new.now, &CLASS).unwrap();
    assert!(line.counter >= floor + 4500.0, "{line:?}");
}

#[test]
fn weights_count_and_keys_that_were_not_told_of_are_not_forgotten() {
    let (mut one, mut sums) = (Process::new(), Sums::default());
    let entry = entry("ada", 100).with_weight(NonZeroU32::new(4).unwrap());
    let take = |(): &(), _| Ok(Some(()));
    one.queues.admit(one.now, &CLASS, &entry, take).unwrap();
    let finished = Finished::after(Duration::from_secs(1));
    one.queues.finish(&CLASS, &"ada", entry.charge(), finished);
    for number in 0..200 {
        let name: Name = Box::leak(format!("key-{number}").into_boxed_str());
        one.serve(name, 1000);
    }
    one.tell(&mut sums);
    assert_eq!(sums.0[&Some("ada")], 25.0);
    assert_eq!(sums.0.len(), 202, "each key and the floor");
}
