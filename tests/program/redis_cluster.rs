//! Two gateways that share limits through a Redis Cluster.

use futures_util::future::join_all;
use serde_json::Value;

use crate::harness::{Gateway, Redis, RedisCluster, chat, run, tiny};
use crate::replicas::{KEYS, PATIENT, REDIS, ask, sharing, two, until_sharing, until_two};

/// Limits of all kinds, and slots that are leased, so that scripts have keys of all kinds.
const SHARED: [(&str, &str); 7] = [
    KEYS,
    PATIENT,
    ("LLAMATOWER_RATE_LIMIT", "1000/h"),
    ("LLAMATOWER_KEY_RATE_LIMIT", "40/h"),
    ("LLAMATOWER_KEY_TOKEN_LIMIT", "500000/minute,9000000/day"),
    ("LLAMATOWER_SLOTS", "8"),
    ("LLAMATOWER_BACKEND_MAX_IN_FLIGHT", "8"),
];

/// How many of these requests to both gateways pass; the others are refused by the limit.
async fn passed(gateways: &[Gateway; 2], requests: usize) -> usize {
    let body = chat();
    let asking = (0..requests).map(|number| ask(&gateways[number % 2], "ada", &body));
    let answers = join_all(asking).await;
    let is_known = |status: u16| [200, 429].contains(&status);
    for answer in &answers {
        assert!(is_known(answer.status), "{} {}", answer.status, answer.text);
    }
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[tokio::test]
async fn limits_count_once_in_a_cluster_and_requests_go_on_until_a_replica_is_promoted() {
    let Some(mut cluster) = RedisCluster::start().await else {
        return;
    };
    let sim = tiny().await;
    let gateways = two(&sim, &cluster.url(3), &SHARED).await;
    assert_eq!(passed(&gateways, 80).await, 40);
    for gateway in &gateways {
        let redis = sharing(gateway).await["redis"].clone();
        assert_eq!(redis["problem"], Value::Null, "{redis}");
    }
    let place = cluster.place_of("{llamatower}").await;
    for (number, server) in cluster.servers.iter().enumerate() {
        let keys = server.call(&["--scan"]).await;
        let is_ours = keys.lines().all(|key| key.starts_with("{llamatower}:"));
        assert!(is_ours, "server {number}: {keys}");
    }
    let keys = cluster.servers[place].call(&["--scan"]).await;
    for kind in ["rate:global:", "rate:key:", "tokens:key:", "gateways:"] {
        assert!(keys.contains(kind), "{kind}: {keys}");
    }

    cluster.servers[place].stop().await;
    for gateway in &gateways {
        until_sharing(gateway, "the end of the server", |sharing| {
            sharing["redis"]["is_connected"] == false
        })
        .await;
    }
    // Each gateway has its part of the limit, if the replica is not promoted yet.
    let meanwhile = passed(&gateways, 10).await;
    assert!(meanwhile > 0, "no request has passed");
    for gateway in &gateways {
        until_two(gateway).await;
    }
    let again = passed(&gateways, 20).await;
    assert!(
        again <= 3,
        "{again}: the replica has the count, and 40 an hour are refilled"
    );
}

#[tokio::test]
async fn doctor_tells_a_cluster_from_a_single_server() {
    let Some(cluster) = RedisCluster::start_one().await else {
        return;
    };
    let single = Redis::start(&[]).await.unwrap();
    let sim = tiny().await;
    let examine = async |redis: &str| {
        let settings = [("OLLAMA_URL", &*sim.url()), (REDIS, redis), PATIENT];
        let report = run(&["doctor", "--json"], &settings).await;
        let report: Value = serde_json::from_str(&report.stdout).unwrap();
        report["findings"].to_string()
    };
    let fine = examine(&cluster.url(1)).await;
    assert!(fine.contains("redis_ready"), "{fine}");
    let plain = examine(&cluster.servers[0].url()).await;
    assert!(plain.contains("redis_unreachable"), "{plain}");
    assert!(
        plain.contains("begin the address with redis+cluster://"),
        "{plain}"
    );
    let single = examine(&format!("redis+cluster://{}", single.authority())).await;
    assert!(single.contains("in no Redis Cluster"), "{single}");
    let gone = examine("redis+cluster://127.0.0.1:1").await;
    assert!(
        gone.contains("redis_unreachable") && gone.contains("127.0.0.1:1: "),
        "{gone}"
    );
}
