#![allow(clippy::unwrap_used)]

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::ask::Account;
use super::settle::{self, Settlement};
use super::test_server::{Server, free_port, program};
use super::*;
use crate::rate_limit::{MemoryBuckets, Quota, RateStore};
use crate::store::{Replicas, StoreUnavailable};
use crate::token_limit::{Budget, BudgetState, MemoryStore, ReserveResult, TokenStore, Window};

const SECOND: Duration = Duration::from_secs(1);
const NOON: &str = "2028-02-29T12:00:00Z";

fn quota(requests: u32, per: Duration) -> Quota {
    Quota::new(NonZeroU32::new(requests).unwrap(), per).unwrap()
}

fn buckets(redis: &Redis) -> RedisBuckets<String> {
    RedisBuckets::new(redis.clone(), "test", |key: &String| key.clone())
}

/// A clock that tests set.
#[derive(Clone)]
struct Clock(Arc<Mutex<Timestamp>>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(NOON.parse().unwrap())))
    }

    fn advance(&self, seconds: i64) {
        *self.0.lock().unwrap() += SignedDuration::from_secs(seconds);
    }

    fn memory(&self) -> MemoryStore<String> {
        let clock = self.0.clone();
        MemoryStore::with_clock(TimeZone::UTC, move || *clock.lock().unwrap())
    }

    fn tokens(&self, redis: &Redis) -> RedisTokens<String> {
        let name_of = |key: &String| key.clone();
        RedisTokens::new(redis.clone(), "test", TimeZone::UTC, self.memory(), name_of)
    }
}

fn budget(tokens: u64, window: Window) -> Budget {
    Budget::new(NonZeroU64::new(tokens).unwrap(), window)
}

fn left<R>(result: &ReserveResult<R>) -> Result<Vec<u64>, BudgetState> {
    let left = |states: &[BudgetState]| states.iter().map(|state| state.remaining).collect();
    match result {
        Ok(granted) => Ok(left(&granted.budget_states)),
        Err(refusal) => Err(*refusal),
    }
}

fn ada() -> Option<String> {
    Some("ada".to_owned())
}

/// The keys with this prefix, and how many keys there are.
async fn keys(redis: &Redis, prefix: &str) -> (Vec<(String, i64)>, i64) {
    let found = redis.call("keys", async |mut connection| {
        let all: i64 = ::redis::cmd("DBSIZE").query_async(&mut connection).await?;
        let names: Vec<String> = ::redis::cmd("KEYS")
            .arg(format!("{prefix}*"))
            .query_async(&mut connection)
            .await?;
        let mut keys = Vec::new();
        for name in names {
            let ttl = ::redis::cmd("PTTL")
                .arg(&name)
                .query_async(&mut connection)
                .await?;
            keys.push((name, ttl));
        }
        Ok((keys, all))
    });
    found.await.unwrap()
}

// === rates ===

/// The behaviour that both stores have.
async fn takes_like_a_bucket(store: &impl RateStore<String>) {
    let quota = quota(5, 5 * SECOND)
        .with_burst(NonZeroU32::new(3).unwrap())
        .unwrap();
    let began = Instant::now();
    for remaining in [2, 1, 0] {
        assert_eq!(store.take(ada(), &quota).await.unwrap(), Ok(remaining));
    }
    let wait = store.take(ada(), &quota).await.unwrap().unwrap_err();
    assert!(
        wait <= SECOND && wait + began.elapsed() >= SECOND,
        "{wait:?}"
    );
    let other = store.take(Some("bob".to_owned()), &quota).await.unwrap();
    assert_eq!(other, Ok(2), "keys are separate");
    let without_key = store.take(None, &quota).await.unwrap();
    assert_eq!(without_key, Ok(2), "so are requests without a key");
    tokio::time::sleep(wait).await;
    assert_eq!(
        store.take(ada(), &quota).await.unwrap(),
        Ok(0),
        "one is refilled"
    );
}

#[tokio::test]
async fn buckets_in_memory_and_in_redis_behave_alike() {
    let quota = quota(5, 5 * SECOND)
        .with_burst(NonZeroU32::new(3).unwrap())
        .unwrap();
    takes_like_a_bucket(&MemoryBuckets::new([quota], NonZeroUsize::MAX)).await;
    let Some(server) = Server::start(&[]) else {
        return;
    };
    takes_like_a_bucket(&buckets(&server.connect().await)).await;
}

#[tokio::test]
async fn two_processes_have_one_bucket() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let stores = [
        buckets(&server.connect().await),
        buckets(&server.connect().await),
    ];
    let quota = quota(100, 3600 * SECOND);
    let taking = (0..300).map(|number| stores[number % 2].take(ada(), &quota));
    let taken = futures_util::future::join_all(taking).await;
    let passed = taken.iter().filter(|taken| taken.as_ref().unwrap().is_ok());
    assert_eq!(passed.count(), 100);
}

#[tokio::test]
async fn a_changed_quota_has_a_bucket_of_its_own() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let store = buckets(&server.connect().await);
    for requests in [1, 2] {
        let quota = quota(requests, 3600 * SECOND);
        let taken = store.take(ada(), &quota).await.unwrap();
        assert_eq!(taken, Ok(requests - 1));
    }
}

#[tokio::test]
async fn without_redis_each_replica_has_its_part() {
    let quota = quota(10, 3600 * SECOND);
    let memory = MemoryBuckets::new([quota], NonZeroUsize::MAX)
        .with_replicas(Replicas::new(NonZeroU32::new(3).unwrap()));
    let address = format!("redis://127.0.0.1:{}", free_port());
    let redis = Redis::start(RedisConfig::new(address.parse().unwrap()));
    let store = buckets(&redis).or_memory(memory);
    for remaining in [2, 1, 0] {
        assert_eq!(store.take(ada(), &quota).await.unwrap(), Ok(remaining));
    }
    assert!(store.take(ada(), &quota).await.unwrap().is_err());
    assert!(buckets(&redis).take(ada(), &quota).await.is_err());
}

// === tokens ===

#[tokio::test]
async fn random_steps_have_the_same_result_in_memory_and_in_redis() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (first, second) = (server.connect().await, server.connect().await);
    for seed in 0..8 {
        let clock = Clock::new();
        let (memory, kind) = (clock.memory(), format!("run {seed}"));
        let name_of = move |key: &String| format!("{kind} {key}");
        let tokens = |redis: &Redis| {
            let (redis, zone) = (redis.clone(), TimeZone::UTC);
            RedisTokens::new(redis, "test", zone, clock.memory(), name_of.clone())
        };
        let stores = [tokens(&first), tokens(&second)];
        let budgets = [budget(100, Window::Minute), budget(150, Window::Day)];
        let mut random = fastrand::Rng::with_seed(seed);
        let mut held = Vec::new();
        for step in 0..60 {
            match random.u8(0..10) {
                0..5 => {
                    let key = ["ada", "bob"][random.usize(0..2)].to_owned();
                    let (which, amount) = (random.usize(0..2), random.u64(0..80));
                    let expected = memory.reserve(Some(key.clone()), &budgets, amount);
                    let expected = expected.await.unwrap();
                    let found = stores[which].reserve(Some(key), &budgets, amount);
                    let found = found.await.unwrap();
                    assert_eq!(left(&found), left(&expected), "seed {seed}, step {step}");
                    if let (Ok(expected), Ok(found)) = (expected, found) {
                        held.push((expected.reservation, which, found.reservation));
                    }
                }
                5..9 if !held.is_empty() => {
                    let at = random.usize(0..held.len());
                    let (expected, which, found) = held.swap_remove(at);
                    let used = random.u64(0..60);
                    memory.settle(expected, used);
                    stores[which].settle(found, used);
                    stores[which].settled().await;
                }
                _ => clock.advance(random.i64(0..50)),
            }
        }
    }
}

#[tokio::test]
async fn a_reservation_whose_process_died_expires() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (redis, clock) = (server.connect().await, Clock::new());
    let budgets = [budget(100, Window::Day)];
    let dying = clock
        .tokens(&redis)
        .with_reservation_expiry(Duration::from_millis(300));
    let held = dying.reserve(ada(), &budgets, 80).await.unwrap();
    assert_eq!(left(&held), Ok(vec![20]));
    let store = clock.tokens(&redis);
    assert!(store.reserve(ada(), &budgets, 30).await.unwrap().is_err());
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(
        left(&store.reserve(ada(), &budgets, 30).await.unwrap()),
        Ok(vec![70])
    );
    // It was alive after all: its tokens count.
    dying.settle(held.unwrap().reservation, 5);
    dying.settled().await;
    assert_eq!(
        left(&store.reserve(ada(), &budgets, 0).await.unwrap()),
        Ok(vec![65])
    );
}

#[tokio::test]
async fn a_settlement_that_is_sent_twice_counts_once() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (redis, clock) = (server.connect().await, Clock::new());
    let (store, budgets) = (clock.tokens(&redis), [budget(100, Window::Day)]);
    store.reserve(ada(), &budgets, 30).await.unwrap().unwrap();
    let account = redis.key("tokens:test", "key ada");
    let open: Vec<String> = redis
        .call("test", async |mut connection| {
            let mut range = ::redis::cmd("ZRANGE");
            range.arg(format!("{account}:open")).arg(0).arg(-1);
            range.query_async(&mut connection).await
        })
        .await
        .unwrap();
    let settlement = [Settlement {
        account: Arc::new(Account::new(account)),
        reservation: open[0].clone(),
        used: 10,
    }];
    for is_first in [true, false, false] {
        assert!(settle::send(&redis, &settlement, is_first).await);
    }
    assert_eq!(
        left(&store.reserve(ada(), &budgets, 0).await.unwrap()),
        Ok(vec![90])
    );
}

#[tokio::test]
async fn requests_of_several_clients_that_end_together_count_for_their_own_client() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (redis, clock) = (server.connect().await, Clock::new());
    let (store, budgets) = (clock.tokens(&redis), [budget(100, Window::Day)]);
    let client = |name: &str| Some(name.to_owned());
    let mut ended = Vec::new();
    for (name, used) in [("ada", 1), ("bob", 20), ("ada", 3), ("bob", 40)] {
        let granted = store.reserve(client(name), &budgets, 5).await.unwrap();
        ended.push((granted.unwrap().reservation, used));
    }
    for (reservation, used) in ended {
        store.settle(reservation, used);
    }
    store.settled().await;
    for (name, used) in [("ada", 4), ("bob", 60)] {
        let key = client(name);
        assert_eq!(store.used(key.as_ref(), Window::Day), used);
        let granted = store.reserve(key, &budgets, 0).await.unwrap();
        assert_eq!(left(&granted), Ok(vec![100 - used]));
    }
}

#[tokio::test]
async fn what_a_process_has_used_counts_in_its_part_when_redis_is_gone() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let (redis, clock) = (server.connect().await, Clock::new());
    let two = Replicas::new(NonZeroU32::new(2).unwrap());
    let memory = clock.memory().with_replicas(two);
    let name_of = |key: &String| key.clone();
    let store = RedisTokens::new(redis.clone(), "test", TimeZone::UTC, memory, name_of).or_memory();
    let budgets = [budget(100, Window::Day)];
    let granted = store.reserve(ada(), &budgets, 10).await.unwrap().unwrap();
    store.settle(granted.reservation, 30);
    store.settled().await;
    assert_eq!(store.used(ada().as_ref(), Window::Day), 30);
    server.kill();
    let granted = store.reserve(ada(), &budgets, 15).await.unwrap();
    assert_eq!(
        left(&granted),
        Ok(vec![5]),
        "half of 100, without 30 and 15"
    );
}

#[tokio::test]
async fn the_used_tokens_are_known_after_a_settlement_and_at_other_processes_without_a_request() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (redis, clock) = (server.connect().await, Clock::new());
    let (here, there) = (clock.tokens(&redis), clock.tokens(&redis));
    let (key, budgets) = (ada(), [budget(100, Window::Day)]);
    // From now on the key is known there.
    assert_eq!(there.used(key.as_ref(), Window::Day), 0);
    for (used, sum) in [(30, 30), (25, 55)] {
        let granted = here.reserve(ada(), &budgets, 10).await.unwrap().unwrap();
        here.settle(granted.reservation, used);
        here.settled().await;
        assert_eq!(here.used(key.as_ref(), Window::Day), sum);
    }
    let known = async {
        while there.used(key.as_ref(), Window::Day) != 55 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), known)
        .await
        .expect("it is asked for in the background");
    // What is given back is known as well.
    let granted = there.reserve(ada(), &budgets, 20).await.unwrap().unwrap();
    assert_eq!(there.used(key.as_ref(), Window::Day), 75);
    there.settle(granted.reservation, 0);
    there.settled().await;
    assert_eq!(there.used(key.as_ref(), Window::Day), 55);
}

#[tokio::test]
async fn settlements_wait_for_redis() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let (redis, clock) = (server.connect().await, Clock::new());
    let (store, budgets) = (clock.tokens(&redis), [budget(100, Window::Day)]);
    let granted = store.reserve(ada(), &budgets, 10).await.unwrap().unwrap();
    server.signal("STOP");
    store.settle(granted.reservation, 40);
    server.signal("CONT");
    store.settled().await;
    redis.connected().await;
    assert_eq!(
        left(&store.reserve(ada(), &budgets, 0).await.unwrap()),
        Ok(vec![60])
    );
    // A server that has lost its data accepts them too.
    let granted = store.reserve(ada(), &budgets, 10).await.unwrap().unwrap();
    server.kill();
    store.settle(granted.reservation, 40);
    assert!(server.restart());
    store.settled().await;
    assert_eq!(
        left(&store.reserve(ada(), &budgets, 0).await.unwrap()),
        Ok(vec![100])
    );
}

// === the connection ===

async fn take_once(store: &RedisBuckets<String>) -> Result<u32, StoreUnavailable> {
    let taken = store.take(ada(), &quota(1000, 3600 * SECOND)).await?;
    Ok(taken.unwrap())
}

#[tokio::test]
async fn a_stopped_server_costs_one_deadline_and_then_nothing() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let redis = Redis::start(server.config().with_deadline(Duration::from_millis(200)));
    redis.connected().await;
    let store = buckets(&redis);
    take_once(&store).await.unwrap();
    server.signal("STOP");
    let began = Instant::now();
    let error = take_once(&store).await.unwrap_err();
    assert!(
        error.to_string().contains("no response within 200ms"),
        "{error}"
    );
    assert!(began.elapsed() >= Duration::from_millis(190));
    let began = Instant::now();
    for _ in 0..100 {
        take_once(&store).await.unwrap_err();
    }
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    assert!(!redis.status().is_connected);
    server.signal("CONT");
    redis.connected().await;
    take_once(&store).await.unwrap();
}

#[tokio::test]
async fn a_server_that_was_killed_is_connected_again() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let redis = server.connect().await;
    let store = buckets(&redis);
    take_once(&store).await.unwrap();
    server.kill();
    take_once(&store).await.unwrap_err();
    let status = redis.status();
    assert!(
        !status.is_connected && status.problem.is_some(),
        "{status:?}"
    );
    assert!(server.restart());
    redis.connected().await;
    assert_eq!(
        take_once(&store).await.unwrap(),
        999,
        "also without its scripts"
    );
}

#[tokio::test]
async fn a_server_without_memory_refuses_and_stays_connected() {
    let Some(server) = Server::start(&["--maxmemory", "1"]) else {
        return;
    };
    let redis = server.connect().await;
    let error = take_once(&buckets(&redis)).await.unwrap_err();
    assert!(error.to_string().contains("OOM"), "{error}");
    let status = redis.status();
    assert!(status.is_connected && status.problem.unwrap().contains("OOM"));
}

#[tokio::test]
async fn all_keys_have_the_prefix_and_expire() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let redis = Redis::start(server.config().with_prefix("mine:"));
    redis.connected().await;
    take_once(&buckets(&redis)).await.unwrap();
    let store = Clock::new().tokens(&redis);
    let budgets = [budget(100, Window::Minute), budget(100, Window::Month)];
    let granted = store.reserve(ada(), &budgets, 10).await.unwrap().unwrap();
    let (found, all) = keys(&redis, "mine:").await;
    assert_eq!((found.len(), all), (3, 3), "{found:?}");
    for (name, ttl) in &found {
        assert!(*ttl > 0, "{name} has no expiry");
        assert!(!name.contains("ada"), "{name} names a client");
    }
    store.settle(granted.reservation, 5);
    store.settled().await;
    let (found, _) = keys(&redis, "mine:").await;
    assert!(found.iter().all(|(_, ttl)| *ttl > 0), "{found:?}");
}

#[tokio::test]
async fn a_password_and_a_database_are_taken_from_the_address() {
    let Some(server) = Server::start(&["--requirepass", "a/b@c"]) else {
        return;
    };
    let port = server.port;
    let address: RedisAddress = format!("redis://:a%2Fb%40c@127.0.0.1:{port}/3")
        .parse()
        .unwrap();
    assert_eq!(
        format!("{address:?}"),
        format!("RedisAddress(\"redis://127.0.0.1:{port}/3\")")
    );
    let redis = Redis::start(RedisConfig::new(address).with_deadline(SECOND));
    redis.connected().await;
    take_once(&buckets(&redis)).await.unwrap();
    let wrong = format!("redis://:secret@127.0.0.1:{port}").parse().unwrap();
    let wrong = Redis::start(RedisConfig::new(wrong).with_deadline(SECOND));
    let refused = async {
        while !wrong.status().problem.unwrap().contains("assword") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(20 * SECOND, refused).await.unwrap();
    assert!(!format!("{wrong:?}").contains("secret"));
}

#[tokio::test]
async fn a_sentinel_names_the_server() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let directory = std::env::temp_dir().join(format!("sentinel-{}", server.port));
    std::fs::create_dir_all(&directory).unwrap();
    let (file, port) = (directory.join("sentinel.conf"), free_port());
    let config = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 1\n",
        server.port
    );
    std::fs::write(&file, config).unwrap();
    let mut sentinel = std::process::Command::new(program())
        .arg(&file)
        .arg("--sentinel")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("redis+sentinel://127.0.0.1:{port}/main");
    let redis = Redis::start(RedisConfig::new(address.parse().unwrap()).with_deadline(SECOND));
    let connected = tokio::time::timeout(20 * SECOND, redis.connected()).await;
    let taken = take_once(&buckets(&redis)).await;
    sentinel.kill().unwrap();
    sentinel.wait().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    connected.unwrap();
    taken.unwrap();
}

#[test]
fn addresses_are_refused_in_words_without_the_password() {
    for (text, reason) in [
        ("cache:6379", "it is not like redis://"),
        ("http://:secret@cache", "it must begin with redis://"),
        ("redis://:sec/ret@cache", "percent-encoded"),
        (
            "redis://:secret@a:1,b:2",
            "redis+cluster:// for a Redis Cluster",
        ),
        (
            "redis+cluster://:secret@a:1,b:2/1",
            "a cluster has no databases",
        ),
        ("redis+cluster://:secret@a:1,", "a server has no name"),
        ("rediss+cluster://a:secret", "a port is no number"),
        (
            "redis+cluster://:secret%ff@a:1",
            "the password is not UTF-8",
        ),
        (
            "redis+sentinel://:secret@a:1,b:2",
            "it must end with the name",
        ),
        ("redis+sentinel://a:x/main", "a port is no number"),
        ("redis://:secret@cache:x", "it is malformed"),
        ("redis://:secret@cache/x", "it is malformed"),
    ] {
        let error = text.parse::<RedisAddress>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
