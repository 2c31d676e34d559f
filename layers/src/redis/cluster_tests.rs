#![allow(clippy::unwrap_used)]

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::ask::{Ask, BucketAsk};
use super::test_cluster::{Cluster, until, within_limit};
use super::test_server::{Server, free_port};
use super::*;
use crate::rate_limit::{Quota, RateStore};
use crate::token_limit::{Budget, MemoryStore, TokenStore, Window};

/// So long that nothing is refilled during a test.
const LONG: Duration = Duration::from_secs(1000 * 3600);

fn quota(requests: u32) -> Quota {
    Quota::new(NonZeroU32::new(requests).unwrap(), LONG).unwrap()
}

fn buckets(redis: &Redis, limit: &str) -> RedisBuckets<String> {
    RedisBuckets::new(redis.clone(), limit, |key: &String| key.clone())
}

fn tokens(redis: &Redis) -> RedisTokens<String> {
    let memory = MemoryStore::new(TimeZone::UTC);
    RedisTokens::new(
        redis.clone(),
        "test",
        TimeZone::UTC,
        memory,
        |key: &String| key.clone(),
    )
}

fn budget(tokens: u64) -> Budget {
    Budget::new(NonZeroU64::new(tokens).unwrap(), Window::Month)
}

fn ada() -> Option<String> {
    Some("ada".to_owned())
}

/// Takes a request, of which there are 1000. Returns how many are left.
async fn take_once(store: &RedisBuckets<String>) -> Result<u32, crate::store::StoreUnavailable> {
    Ok(store.take(ada(), &quota(1000)).await?.unwrap())
}

/// Waits until Redis is not connected for a reason with this text, which is returned.
async fn until_problem(redis: &Redis, text: &str) -> String {
    let problem = || redis.status().problem.unwrap_or_default();
    until(text, async || problem().contains(text)).await;
    assert!(!redis.is_connected());
    problem()
}

#[tokio::test]
async fn limits_in_a_cluster_count_once_for_two_processes_and_have_one_slot() {
    let Some(cluster) = Cluster::start(&[]).await else {
        return;
    };
    // Each knows another server of the cluster.
    let (first, second) = tokio::join!(cluster.connect(&[0]), cluster.connect(&[2, 1]));
    let rates = [buckets(&first, "key"), buckets(&second, "key")];
    let all = [buckets(&first, "all"), buckets(&second, "all")];
    let accounts = [tokens(&first), tokens(&second)];
    let budgets = [budget(1000)];

    // All limits of a request in one script.
    let asking = (0..300).map(|number| {
        let which = number % 2;
        let redis = [&first, &second][which];
        let mut ask = Ask::default();
        ask.bucket(all[which].bucket(None, &quota(200)));
        ask.bucket(rates[which].bucket(ada().as_ref(), &quota(150)));
        ask.account(accounts[which].ask(ada().as_ref(), &budgets, 10));
        async move {
            redis.admit("admit", &mut ask).await.unwrap();
            let is_taken = |ask: &BucketAsk| matches!(ask.answer, Some(Ok(_)));
            let are_taken = ask.buckets.iter().all(is_taken);
            let account = ask.only_account().ok();
            (are_taken, account.and_then(|account| account.reservation))
        }
    });
    let answers = join_all(asking).await;
    assert_eq!(
        answers.iter().filter(|(is_taken, _)| *is_taken).count(),
        150
    );
    let reserved = answers.iter().filter(|(_, reserved)| reserved.is_some());
    assert_eq!(reserved.count(), 100, "of 10 tokens each");

    // A server that has lost the scripts is sent them again.
    let (slot, place) = cluster.place_of("{llamatower}:").await;
    let _: () = cluster.call(place, &["SCRIPT", "FLUSH"]).await;
    let taken = all[0].take(None, &quota(200)).await.unwrap();
    assert_eq!(taken, Ok(49));
    let granted = accounts[0]
        .reserve(Some("bob".to_owned()), &budgets, 10)
        .await;
    accounts[0].settle(granted.unwrap().unwrap().reservation, 7);
    accounts[0].settled().await;
    let granted = accounts[1]
        .reserve(Some("bob".to_owned()), &budgets, 0)
        .await;
    assert_eq!(granted.unwrap().unwrap().budget_states[0].remaining, 993);

    let slot = slot.to_string();
    let in_slot: usize = cluster
        .call(place, &["CLUSTER", "COUNTKEYSINSLOT", &slot])
        .await;
    for server in 0..3 {
        let keys: Vec<String> = cluster.call(server, &["KEYS", "*"]).await;
        assert_eq!(
            keys.len(),
            if server == place { in_slot } else { 0 },
            "{keys:?}"
        );
        assert!(
            keys.iter().all(|key| key.starts_with("{llamatower}:")),
            "{keys:?}"
        );
    }
    assert!(in_slot >= 6, "two rates and two accounts");
}

#[tokio::test]
async fn after_a_failover_the_promoted_replica_is_used() {
    let Some(mut cluster) = Cluster::start(&[0, 1, 2]).await else {
        return;
    };
    let (_, place) = cluster.place_of("{llamatower}:").await;
    // The address names only the server that dies: the others were learned from it.
    let redis = cluster.connect(&[place]).await;
    let store = buckets(&redis, "test");
    for left in [999, 998] {
        assert_eq!(take_once(&store).await.unwrap(), left);
    }
    let replica = 3 + place;
    until("the copy", async || {
        let replication = ["INFO", "replication"];
        let (sent, copied) = tokio::join!(
            cluster.info(place, &replication, "master_repl_offset"),
            cluster.info(replica, &replication, "slave_repl_offset")
        );
        sent.is_some() && sent == copied
    })
    .await;

    cluster.servers[place].kill();
    take_once(&store).await.unwrap_err();
    assert!(!redis.is_connected());
    let began = Instant::now();
    for _ in 0..100 {
        take_once(&store).await.unwrap_err();
    }
    assert!(
        began.elapsed() < Duration::from_millis(200),
        "no call waits: {:?}",
        began.elapsed()
    );

    within_limit("the promotion", redis.connected()).await;
    assert_eq!(
        take_once(&store).await.unwrap(),
        997,
        "the replica has the count"
    );
    let keys: Vec<String> = cluster.call(replica, &["KEYS", "*"]).await;
    assert_eq!(keys.len(), 1);

    // The old master comes back as a replica, and the one that was promoted hangs.
    assert!(cluster.servers[place].restart());
    cluster.until_replica(place).await;
    assert_eq!(take_once(&store).await.unwrap(), 996);
    cluster.servers[replica].signal("STOP");
    take_once(&store).await.unwrap_err();
    within_limit("the second promotion", redis.connected()).await;
    take_once(&store).await.unwrap();
}

#[tokio::test]
async fn a_slot_that_moves_to_another_server_is_followed() {
    let Some(cluster) = Cluster::start(&[]).await else {
        return;
    };
    let redis = cluster.connect(&[0]).await;
    let store = buckets(&redis, "test");
    assert_eq!(take_once(&store).await.unwrap(), 999);
    let (slot, from) = cluster.place_of("{llamatower}:").await;
    let (slot, to) = (slot.to_string(), (from + 1) % 3);
    let id = async |server| cluster.call::<String>(server, &["CLUSTER", "MYID"]).await;
    let ids = [id(from).await, id(to).await];
    let set = async |server, state, id: &str| {
        cluster
            .call::<()>(server, &["CLUSTER", "SETSLOT", &slot, state, id])
            .await;
    };
    set(to, "IMPORTING", &ids[0]).await;
    set(from, "MIGRATING", &ids[1]).await;
    // Meanwhile the server is still in use, for the keys that it has.
    assert_eq!(take_once(&store).await.unwrap(), 998);
    let key: Vec<String> = cluster
        .call(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "10"])
        .await;
    let port = cluster.servers[to].port.to_string();
    let migrate = ["MIGRATE", "127.0.0.1", &port, &key[0], "0", "5000"];
    let _: () = cluster.call(from, &migrate).await;
    let error = take_once(&store).await.unwrap_err().to_string();
    assert!(error.contains("ASK"), "{error}");
    assert!(redis.is_connected());
    for server in [to, from] {
        set(server, "NODE", &ids[1]).await;
    }
    let error = take_once(&store).await.unwrap_err().to_string();
    assert!(error.contains("MOVED"), "{error}");
    within_limit("the new server", redis.connected()).await;
    assert_eq!(take_once(&store).await.unwrap(), 997);
    // An idle connection finds it by itself.
    let _: () = cluster
        .call(from, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[1]])
        .await;
    let _: () = cluster
        .call(to, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[0]])
        .await;
    let port = cluster.servers[from].port.to_string();
    let _: () = cluster
        .call(to, &["MIGRATE", "127.0.0.1", &port, &key[0], "0", "5000"])
        .await;
    let opened = || {
        redis
            .shared
            .opened
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let before = opened();
    for server in [from, to] {
        set(server, "NODE", &ids[0]).await;
    }
    until("the old server", async || {
        opened() > before && redis.is_connected()
    })
    .await;
    assert_eq!(take_once(&store).await.unwrap(), 996);
}

#[tokio::test]
async fn a_password_and_a_prefix_apply_to_all_servers_of_a_cluster() {
    let Some(cluster) = Cluster::start_servers(3, 0, Some("secret")) else {
        return;
    };
    cluster.meet().await;
    cluster.assign(16_384).await;
    cluster.until_ok().await;
    for prefix in ["a:", "b:", "", "d{tag}:"] {
        let redis = Redis::start(cluster.config(&[0, 1, 2]).with_prefix(prefix));
        within_limit("the connection", redis.connected()).await;
        let store = buckets(&redis, "test");
        for left in [999, 998] {
            assert_eq!(take_once(&store).await.unwrap(), left, "{prefix}");
        }
        assert!(!format!("{redis:?}").contains("secret"));
    }
    let without = format!("redis+cluster://127.0.0.1:{}", cluster.servers[0].port);
    let redis = Redis::start(RedisConfig::new(without.parse().unwrap()));
    until_problem(&redis, "NOAUTH").await;
}

#[tokio::test]
async fn a_cluster_that_does_not_serve_the_slot_is_used_when_it_does() {
    let Some(cluster) = Cluster::start_servers(3, 0, None) else {
        return;
    };
    cluster.meet().await;
    let redis = Redis::start(cluster.config(&[0, 1, 2]));
    let problem = until_problem(&redis, "CLUSTERDOWN").await;
    assert!(problem.contains("127.0.0.1:"), "{problem}");
    take_once(&buckets(&redis, "test")).await.unwrap_err();
    cluster.assign(16_384).await;
    within_limit("the connection", redis.connected()).await;
    take_once(&buckets(&redis, "test")).await.unwrap();
}

#[tokio::test]
async fn an_address_of_the_wrong_kind_is_told_what_to_do() {
    let Some(single) = Server::start(&[]) else {
        return;
    };
    let start = |address: String| {
        let config = RedisConfig::new(address.parse().unwrap());
        Redis::start(config.with_deadline(Duration::from_secs(1)))
    };
    let redis = start(format!("redis+cluster://127.0.0.1:{}", single.port));
    until_problem(
        &redis,
        "in no Redis Cluster; begin its address with redis://",
    )
    .await;
    let nowhere = free_port();
    let redis = start(format!("redis+cluster://127.0.0.1:{nowhere}"));
    until_problem(&redis, &format!("127.0.0.1:{nowhere}: ")).await;

    let cluster = Cluster::start(&[]).await.unwrap();
    for server in &cluster.servers {
        let redis = start(format!("redis://127.0.0.1:{}", server.port));
        until_problem(&redis, "begin the address with redis+cluster://").await;
    }
    // One server that has all keys is as good as a single one.
    let (_, place) = cluster.place_of("{mine}:").await;
    let address = format!("redis://127.0.0.1:{}", cluster.servers[place].port);
    let config = RedisConfig::new(address.parse().unwrap()).with_prefix("{mine}:");
    let redis = Redis::start(config.with_deadline(Duration::from_secs(1)));
    within_limit("the connection", redis.connected()).await;
    take_once(&buckets(&redis, "test")).await.unwrap();
}
