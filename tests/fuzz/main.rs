//! Fuzzes the parsers of network data with random mutations: requests at the edge, answers at the
//! upstream client. `PROPTEST_CASES` is the number of batches of each.

#![allow(clippy::unwrap_used)]

mod answers;
mod edge;
mod messages;
mod mutations;
mod requests;
mod upstream;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Once;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestRunner, contextualize_config};
use tokio::task::yield_now;

/// The number of conversations that run at the same time.
const BATCH: usize = 64;

/// A limit above the time of a batch on a busy machine.
const BATCH_LIMIT: Duration = Duration::from_secs(30);

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
    static COUNTS: RefCell<BTreeMap<&'static str, usize>> = RefCell::default();
}

/// Counts an event.
fn count(what: &'static str) {
    COUNTS.with_borrow_mut(|counts| *counts.entry(what).or_default() += 1);
}

/// Runs a property on batches of conversations. Each event in `common` must occur in at least one
/// of sixteen conversations, which is far from what chance gives: mutations that are all refused, or
/// that change nothing, would find no bugs.
fn for_batches<T: Debug>(
    file: &'static str,
    conversations: impl Strategy<Value = T>,
    property: impl Fn(&[T]) -> Result<(), String>,
    common: &[&str],
) {
    let mut config = contextualize_config(ProptestConfig::with_cases(40));
    config.source_file = Some(file);
    // In milliseconds. A hanging case takes long to shrink.
    config.max_shrink_time = 60_000;
    let least = config.cases as usize * BATCH / 16;
    let mut runner = TestRunner::new(config);
    let result = runner.run(&vec(conversations, BATCH), |batch| {
        without_panic(|| property(&batch)).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}\n{runner}");
    }
    let counts = COUNTS.take();
    println!("{file}: {counts:?}");
    let is_common = |what: &&str| counts.get(what).is_some_and(|count| *count >= least);
    assert!(common.iter().all(is_common), "{counts:?}");
}

/// The first batch, for tests of these tests.
fn first_of<T: Debug>(conversations: impl Strategy<Value = T>) -> Vec<T> {
    let batches = vec(conversations, BATCH);
    let first = batches.new_tree(&mut TestRunner::deterministic());
    first.unwrap().current()
}

/// Fails if a panic occurs on this thread during `run`. tokio catches a panic in a task, so the
/// server continues and only the panic message shows it.
fn without_panic(run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            print(panic);
        }));
    });
    let before = PANICS.get();
    let result = run();
    match PANICS.get() - before {
        0 => result,
        panics => Err(format!("{panics} panics, and then: {result:?}")),
    }
}

/// A single-threaded runtime: a task that yields continues after the sockets were polled and all
/// other tasks have run.
fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}

/// Lets all tasks run this many times.
async fn passes(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// The id of the `at`-th request of the conversation at this place in its batch. A few mutated
/// bytes do not turn one id into another.
fn id(place: usize, at: usize) -> String {
    let number = (place * BATCH + at + 1) as u64;
    format!("id-{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn a_panic_in_a_task_is_detected() {
    let result = without_panic(|| {
        runtime().block_on(async {
            let task = tokio::spawn(async { panic!("this panic is part of a test") });
            assert!(task.await.is_err());
            Ok(())
        })
    });
    assert!(result.unwrap_err().starts_with("1 panics"));
}
