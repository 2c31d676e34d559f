//! How exact limits are while two processes make many calls.
//!
//! `STRESS_SECONDS` (2) and `STRESS_CALLS` for each second (1000) make a longer run, which belongs into a
//! release build.

#![allow(clippy::unwrap_used)]

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::test_server::Server;
use super::*;
use crate::rate_limit::{Quota, RateStore};
use crate::token_limit::{Budget, MemoryStore, TokenStore, Window};

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

fn seconds() -> u64 {
    setting("STRESS_SECONDS", 2)
}

fn calls() -> u64 {
    setting("STRESS_CALLS", 1000)
}

/// The calls that wait for a response at the same time: on a busy machine, the calls become fewer.
const AT_ONCE: usize = 256;

/// Makes the calls of the settings, alternately with two links, and returns how long that took.
async fn drive<F: Future<Output = ()> + Send + 'static>(call: impl Fn(usize) -> F) -> Duration {
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    for number in 0..calls() * seconds() {
        // As many each millisecond; a late turn catches up.
        let due = Duration::from_nanos(number * 1_000_000_000 / calls());
        if began.elapsed() < due {
            sleep_until(began + due).await;
        }
        if waiting.len() == AT_ONCE {
            waiting.join_next().await.unwrap().unwrap();
        }
        waiting.spawn(call(number as usize % 2));
        while let Some(done) = waiting.try_join_next() {
            done.unwrap();
        }
    }
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
    let took = began.elapsed();
    let made = (calls() * seconds()) as f64 / took.as_secs_f64();
    eprintln!("{made:.0} calls a second for {:.1} s", took.as_secs_f64());
    took
}

fn within_2_percent(expected: f64) -> RangeInclusive<f64> {
    expected * 0.98..=expected * 1.02
}

#[tokio::test]
async fn a_rate_is_exact_within_2_percent_at_many_calls() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let store = |redis| {
        Arc::new(RedisBuckets::new(redis, "speed", |key: &String| {
            key.clone()
        }))
    };
    let stores = [store(server.connect().await), store(server.connect().await)];
    let per_second = u32::try_from(calls() / 4).unwrap();
    let quota = Quota::new(NonZeroU32::new(per_second).unwrap(), Duration::from_secs(1)).unwrap();
    let passed = Arc::new(AtomicU64::new(0));
    let took = drive(|link| {
        let (store, passed) = (stores[link].clone(), passed.clone());
        async move {
            let taken = store.take(Some("ada".to_owned()), &quota).await.unwrap();
            passed.fetch_add(u64::from(taken.is_ok()), Relaxed);
        }
    });
    let took = took.await.as_secs_f64();
    // The bucket is full at first.
    let expected = f64::from(per_second) * (took + 1.0);
    let passed = passed.load(Relaxed) as f64;
    eprintln!("{passed} of {expected:.0} passed");
    assert!(
        within_2_percent(expected).contains(&passed),
        "{passed} passed, the limit is {expected}"
    );
}

#[tokio::test]
async fn a_token_budget_is_exact_within_2_percent_at_many_calls() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let store = |redis| {
        let (zone, memory) = (TimeZone::UTC, MemoryStore::new(TimeZone::UTC));
        let name_of = |key: &String| key.clone();
        Arc::new(RedisTokens::new(redis, "speed", zone, memory, name_of))
    };
    let stores = [store(server.connect().await), store(server.connect().await)];
    // A third of the requests has room. Each uses a little less than it reserves.
    let (reserved, used) = (20, 15);
    let limit = calls() * seconds() / 3 * used;
    let budgets = [Budget::new(NonZeroU64::new(limit).unwrap(), Window::Month)];
    let total = Arc::new(AtomicU64::new(0));
    drive(|link| {
        let (store, total) = (stores[link].clone(), total.clone());
        async move {
            let key = Some("ada".to_owned());
            let granted = store.reserve(key, &budgets, reserved).await.unwrap();
            if let Ok(granted) = granted {
                store.settle(granted.reservation, used);
                total.fetch_add(used, Relaxed);
            }
        }
    })
    .await;
    // What was reserved and not used is free once it is settled.
    for store in &stores {
        store.settled().await;
        let reserve = || store.reserve(Some("ada".to_owned()), &budgets, reserved);
        while let Ok(granted) = reserve().await.unwrap() {
            store.settle(granted.reservation, used);
            total.fetch_add(used, Relaxed);
            store.settled().await;
        }
    }
    let total = total.load(Relaxed) as f64;
    eprintln!("{total} of {limit} tokens were used");
    assert!(
        within_2_percent(limit as f64).contains(&total),
        "{total} tokens were used, the limit is {limit}"
    );
    let nothing = stores[0].reserve(Some("ada".to_owned()), &budgets, 0);
    let left = nothing.await.unwrap().unwrap().budget_states[0].remaining;
    assert_eq!(left as f64, limit as f64 - total, "all of it is counted");
}
