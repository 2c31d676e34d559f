//! Which keys are remembered.

use tokio::time::Instant;

use super::*;
use crate::queue::Entry;
use crate::queue::machine::Rules;

type Name = &'static str;

fn entry(key: Name) -> Entry<Name, ()> {
    Entry::new(key, ())
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const KEYS: usize = 5000;

fn names() -> Vec<Name> {
    let name = |n: usize| &*Box::leak(format!("key-{n}").into_boxed_str());
    (0..KEYS).map(name).collect()
}

#[test]
fn idle_keys_are_forgotten() {
    let charge = entry("x").with_cost(1000).charge;
    let mut class_queue: ClassQueue<Name, ()> = ClassQueue::new();
    for name in names() {
        class_queue.admit(&name, charge);
        class_queue.finish(&name, charge, Finished::after(secs(1)));
        assert!(class_queue.keys_known() < 2500);
    }
}

#[test]
fn a_key_that_holds_a_slot_is_not_forgotten() {
    let names = names();
    let free = entry("x").with_cost(0).charge;
    let mut class_queue: ClassQueue<Name, ()> = ClassQueue::new();
    class_queue.admit(&"ada", free);
    for name in &names {
        class_queue.admit(name, free);
        class_queue.finish(name, free, Finished::after(secs(1)));
    }
    class_queue.finish(&"ada", free, Finished::after(secs(1)).with_cost(500));
    let now = Instant::now();
    let position = |key, id| Position {
        key,
        priority: Priority::Normal,
        arrival: now,
        id,
    };
    for (key, id) in [("bob", 1), ("ada", 2), ("bob", 3)] {
        class_queue.push(&position(key, id), entry(key).with_cost(10).charge, ());
    }
    let ahead = class_queue.ahead(&position("ada", 2), Rules::default().at(now));
    assert_eq!(ahead, Some(2), "ada was charged more");
}
