//! Fairness between clients over two gateways that share Redis.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use llamatower_sim::{ModelSpec, SimHandle};
use serde_json::json;

use crate::harness::{Gateway, Redis, chat, load, sim_with, until, with};
use crate::queue::until_waiting;
use crate::replicas::{KEYS, PATIENT, REDIS, ask, two};

const ONE_SLOT: (&str, &str) = ("LLAMATOWER_SLOTS", "1");

/// A server whose responses of 10 tokens take ten times this.
async fn server(pace: u64) -> SimHandle {
    let model = ModelSpec::new("tiny")
        .with_slots(8)
        .with_pace(Duration::from_millis(pace))
        .with_reply_tokens(10);
    let sim = sim_with(model).await;
    load(&sim).await;
    sim
}

async fn chat_as(gateway: &Gateway, client: &str) {
    let body = with(
        chat(),
        json!({"messages": [{"role": "user", "content": client}]}),
    );
    let answer = ask(gateway, client, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// What a request of `bob` meets beside a flood.
#[derive(Debug)]
struct Met {
    /// The requests of `ada` that the server gets for each of his.
    ahead: f64,
    /// Its mean time.
    time: Duration,
}

/// `bob` sends one request after the other to these gateways in turns, while `ada` floods one.
async fn modest_beside_flood(sim: &SimHandle, flooded: &Gateway, gateways: &[&Gateway]) -> Met {
    const REQUESTS: u32 = 12;
    let is_over = AtomicBool::new(false);
    let flooding = (0..8).map(async |_| {
        while !is_over.load(Ordering::Relaxed) {
            chat_as(flooded, "ada").await;
        }
    });
    let modest = async {
        until_waiting(flooded, (1, 7)).await;
        // What his requests cost is not known before.
        chat_as(gateways[0], "bob").await;
        let before = sim.requests().len();
        let began = Instant::now();
        for number in 0..REQUESTS {
            let gateway = gateways[number as usize % gateways.len()];
            chat_as(gateway, "bob").await;
        }
        let time = began.elapsed() / REQUESTS;
        is_over.store(true, Ordering::Relaxed);
        let requests = sim.requests();
        let is_of_ada = |body: &[u8]| String::from_utf8_lossy(body).contains("ada");
        let of_ada = requests[before..].iter();
        let of_ada = of_ada.filter(|seen| seen.body().is_some_and(|body| is_of_ada(body)));
        let ahead = of_ada.count() as f64 / f64::from(REQUESTS);
        Met { ahead, time }
    };
    tokio::join!(join_all(flooding), modest).1
}

#[tokio::test]
async fn a_modest_client_waits_no_longer_beside_a_flood_than_behind_one_gateway() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = server(20).await;
    let without = Gateway::start_up(&[&sim], &[ONE_SLOT, KEYS]).await;
    let alone = modest_beside_flood(&sim, &without, &[&without]).await;
    let [one, other] = two(&sim, &redis.url(), &[ONE_SLOT, KEYS, PATIENT]).await;
    let both = modest_beside_flood(&sim, &one, &[&one, &other]).await;
    let elsewhere = modest_beside_flood(&sim, &one, &[&other]).await;
    println!(
        "beside a flood: {alone:?} with one gateway; with two {both:?} in turns, {elsewhere:?} at the other"
    );
    for met in [both, elsewhere] {
        assert!(met.ahead < 1.3 * alone.ahead.max(1.0), "{met:?}");
        // Each change of the gateway costs the processors of this machine, which other tests use too.
        let factor = met.time.as_secs_f64() / alone.time.as_secs_f64();
        assert!(factor < 2.5, "{factor:.2}");
    }
}

/// Waits until a gateway has exchanged with Redis twice more.
async fn until_exchanged(gateway: &Gateway) {
    let exchanges = async || {
        let labels = ["operation=\"fairness\"", "result=\"answered\""];
        let count = gateway.sample("llamatower_redis_call_seconds_count", &labels);
        count.await.unwrap_or(0.0)
    };
    let before = exchanges().await;
    until("two exchanges", async || exchanges().await >= before + 2.0).await;
}

/// How many requests of `bob`, who always has some waiting at the second gateway, are served there before the
/// first one of `ada`, who was served a lot at the first gateway meanwhile; at most 10. The gateways have
/// a server each, so that no slots are shared.
async fn served_before_the_flooder(redis: Option<&Redis>, flushes: bool) -> usize {
    let (fast, slow) = (server(0).await, server(5).await);
    let url = redis.map(Redis::url);
    let mut settings = vec![ONE_SLOT, KEYS, PATIENT];
    settings.extend(url.as_ref().map(|url| (REDIS, &**url)));
    let one = Gateway::start_up(&[&fast], &settings).await;
    let other = Gateway::start_up(&[&slow], &settings).await;
    chat_as(&other, "bob").await;
    let is_over = AtomicBool::new(false);
    let waiting = (0..6).map(async |_| {
        while !is_over.load(Ordering::Relaxed) {
            chat_as(&other, "bob").await;
        }
    });
    let flooder = async {
        until_waiting(&other, (1, 5)).await;
        let long = with(chat(), json!({"options": {"num_predict": 500}}));
        for number in 0..20 {
            assert_eq!(ask(&one, "ada", &long).await.status, 200);
            if let Some(redis) = redis.filter(|_| flushes && number == 10) {
                redis.call(&["FLUSHALL"]).await;
            }
        }
        if redis.is_some() {
            until_exchanged(&one).await;
            until_exchanged(&other).await;
        }
        let before = slow.requests().len();
        let ten = async {
            while slow.requests().len() < before + 10 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = chat_as(&other, "ada") => {}
            () = ten => {}
        }
        is_over.store(true, Ordering::Relaxed);
        slow.requests().len() - before
    };
    tokio::join!(join_all(waiting), flooder).1
}

#[tokio::test]
async fn a_client_that_has_flooded_one_gateway_is_behind_at_the_other() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let without = served_before_the_flooder(None, false).await;
    println!("{without} were served before the flooder without Redis");
    assert!(without < 5, "a new client is among the next ones");
    for flushes in [false, true] {
        let served = served_before_the_flooder(Some(&redis), flushes).await;
        println!("{served} were served before the flooder; Redis was flushed: {flushes}");
        assert!(served >= 10, "{served}, flushed: {flushes}");
    }
    const NAMES: &str = "return redis.call('HKEYS', redis.call('KEYS', '*fairness:served*')[1])";
    let keys = redis.call(&["KEYS", "*fairness*"]).await;
    assert_eq!(keys.lines().count(), 2, "{keys}");
    for key in keys.lines() {
        let lasts: i64 = redis.call(&["TTL", key]).await.trim().parse().unwrap();
        assert!((1..=600).contains(&lasts), "{key}: {lasts}");
    }
    let counters = redis.call(&["EVAL", NAMES, "0"]).await;
    assert!(counters.lines().count() >= 3 && !counters.contains("ada"));
}

#[tokio::test]
async fn without_an_answer_of_redis_each_gateway_is_fair_by_itself() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = server(6).await;
    let [one, _other] = two(&sim, &redis.url(), &[ONE_SLOT, KEYS, PATIENT]).await;
    redis.signal("STOP").await;
    let met = modest_beside_flood(&sim, &one, &[&one]).await;
    assert!(met.ahead < 1.5, "{met:?}");
    redis.signal("CONT").await;
    until_exchanged(&one).await;
}
