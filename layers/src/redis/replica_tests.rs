#![allow(clippy::unwrap_used)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use ::redis::{FromRedisValue, InfoDict};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::test_cluster::{until, within_limit};
use super::test_server::{Server, free_port};
use super::*;
use crate::rate_limit::{Quota, RateStore};
use crate::store::StoreUnavailable;

/// Takes a request, of which there are 1000. Returns how many are left.
async fn take_once(redis: &Redis) -> Result<u32, StoreUnavailable> {
    let store = RedisBuckets::new(redis.clone(), "test", |key: &String| key.clone());
    let long = Duration::from_secs(1000 * 3600);
    let quota = Quota::new(NonZeroU32::new(1000).unwrap(), long).unwrap();
    let taken = store.take(Some("ada".to_owned()), &quota).await?;
    Ok(taken.unwrap())
}

/// Calls a server on a connection of its own.
async fn call<T: FromRedisValue>(server: &Server, words: &[&str]) -> T {
    let address = format!("redis://127.0.0.1:{}", server.port);
    let client = ::redis::Client::open(address).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut call = ::redis::cmd(words[0]);
    call.arg(&words[1..])
        .query_async(&mut connection)
        .await
        .unwrap()
}

/// A name that stands for the server at `port`: each new connection to it leads there.
async fn name_of(port: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let port = port.load(Ordering::Relaxed);
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    name
}

#[tokio::test]
async fn after_a_failover_behind_a_name_the_new_master_is_used() {
    let (Some(old), Some(new)) = (Server::start(&[]), Server::start(&[])) else {
        return;
    };
    // Both have started.
    for server in [&old, &new] {
        server.connect().await;
    }
    let master = Arc::new(AtomicU16::new(old.port));
    let name = name_of(master.clone()).await;
    let address = format!("redis://127.0.0.1:{name}").parse().unwrap();
    let redis = Redis::start(RedisConfig::new(address).with_deadline(Duration::from_secs(3)));
    within_limit("the connection", redis.connected()).await;
    assert_eq!(take_once(&redis).await.unwrap(), 999);

    // The old server keeps its connections.
    master.store(new.port, Ordering::Relaxed);
    let port = new.port.to_string();
    let _: () = call(&old, &["REPLICAOF", "127.0.0.1", &port]).await;
    let error = take_once(&redis).await.unwrap_err().to_string();
    assert!(error.contains("the server is a replica"), "{error}");
    within_limit("the new master", redis.connected()).await;
    assert_eq!(take_once(&redis).await.unwrap(), 999, "it had no copy");
    assert_eq!(redis.status().problem, None);
}

#[tokio::test]
async fn a_replica_is_not_used_before_it_is_a_master_again() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let redis = server.connect().await;
    assert_eq!(take_once(&redis).await.unwrap(), 999);
    // Its master is nowhere.
    let nowhere = free_port().to_string();
    let _: () = call(&server, &["REPLICAOF", "127.0.0.1", &nowhere]).await;
    take_once(&redis).await.unwrap_err();
    let connections = async || {
        let info: InfoDict = call(&server, &["INFO", "stats"]).await;
        info.get::<u64>("total_connections_received").unwrap()
    };
    let opened = || redis.shared.opened.load(Ordering::Relaxed);
    let tried = async {
        // Those that ask for the number count too.
        let (before, mut asked) = (connections().await, 0);
        while connections().await < before + asked + 4 {
            asked += 1;
            let error = take_once(&redis).await.unwrap_err().to_string();
            assert!(error.contains("the server is a replica"), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_limit("three new connections", tried).await;
    assert_eq!(opened(), 1, "a connection to a replica is not opened");

    let _: () = call(&server, &["REPLICAOF", "NO", "ONE"]).await;
    within_limit("the connection", redis.connected()).await;
    until("the call", async || take_once(&redis).await.is_ok()).await;
    assert_eq!(redis.status().problem, None);
}
