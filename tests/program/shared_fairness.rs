//! Fairness between clients over two gateways that share Redis.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use llamatower_sim::{ModelSpec, SimHandle};
use serde_json::json;

use crate::harness::{Gateway, Redis, chat, load, sim_with, with, within_limit};
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

/// The mean time of a request of `bob`, who sends one after the other to these gateways in turns, while
/// `ada` floods one.
async fn modest_beside_flood(flooded: &Gateway, gateways: &[&Gateway]) -> Duration {
    const REQUESTS: u32 = 20;
    let is_over = AtomicBool::new(false);
    let flooding = (0..8).map(async |_| {
        while !is_over.load(Ordering::Relaxed) {
            chat_as(flooded, "ada").await;
        }
    });
    let modest = async {
        until_waiting(flooded, (1, 7)).await;
        // The averages of what requests cost.
        chat_as(gateways[0], "bob").await;
        let began = Instant::now();
        for number in 0..REQUESTS {
            let gateway = gateways[number as usize % gateways.len()];
            chat_as(gateway, "bob").await;
        }
        is_over.store(true, Ordering::Relaxed);
        began.elapsed() / REQUESTS
    };
    let (_, mean) = tokio::join!(join_all(flooding), modest);
    mean
}

#[tokio::test]
async fn a_modest_client_waits_no_longer_beside_a_flood_than_behind_one_gateway() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = server(6).await;
    let without = Gateway::start_up(&[&sim], &[ONE_SLOT, KEYS]).await;
    let alone = modest_beside_flood(&without, &[&without]).await;
    let [one, other] = two(&sim, &redis.url(), &[ONE_SLOT, KEYS, PATIENT]).await;
    let both = modest_beside_flood(&one, &[&one, &other]).await;
    let elsewhere = modest_beside_flood(&one, &[&other]).await;
    println!(
        "a request beside a flood: {alone:?} with one gateway; with two {both:?} in turns, {elsewhere:?} at the other"
    );
    for measured in [both, elsewhere] {
        let factor = measured.as_secs_f64() / alone.as_secs_f64();
        assert!(factor < 1.3, "{factor:.2}");
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
    within_limit("two exchanges", async {
        while exchanges().await < before + 2.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// How many requests of `bob`, who has many waiting at the second gateway, are served there before the
/// first one of `ada`, who was served 40 at the first gateway meanwhile. The gateways have a server each,
/// so that no slots are shared.
async fn served_before_the_flooder(redis: &Redis, flushes: bool) -> usize {
    let (fast, slow) = (server(1).await, server(10).await);
    let url = redis.url();
    let settings = [ONE_SLOT, KEYS, PATIENT, (REDIS, &*url)];
    let one = Gateway::start_up(&[&fast], &settings).await;
    let other = Gateway::start_up(&[&slow], &settings).await;
    chat_as(&one, "ada").await;
    chat_as(&other, "bob").await;
    let waiting = join_all((0..40).map(|_| chat_as(&other, "bob")));
    let flooder = async {
        until_waiting(&other, (1, 39)).await;
        for number in 0..40 {
            chat_as(&one, "ada").await;
            if flushes && number == 20 {
                redis.call(&["FLUSHALL"]).await;
            }
        }
        until_exchanged(&one).await;
        until_exchanged(&other).await;
        let before = slow.requests().len();
        chat_as(&other, "ada").await;
        slow.requests().len() - before
    };
    let (_, served) = tokio::join!(waiting, flooder);
    served
}

#[tokio::test]
async fn a_client_that_has_flooded_one_gateway_is_behind_at_the_other() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    for flushes in [false, true] {
        let served = served_before_the_flooder(&redis, flushes).await;
        println!("{served} were served before the flooder; Redis was flushed: {flushes}");
        assert!(served >= 10, "{served}, flushed: {flushes}");
    }
    let keys = redis.call(&["KEYS", "*fairness*"]).await;
    assert_eq!(keys.lines().count(), 2, "{keys}");
    for key in keys.lines() {
        let lasts: i64 = redis.call(&["TTL", key]).await.trim().parse().unwrap();
        assert!((1..=600).contains(&lasts), "{key}: {lasts}");
        assert!(!redis.call(&["DUMP", key]).await.contains("ada"));
    }
}

#[tokio::test]
async fn without_an_answer_of_redis_each_gateway_is_fair_by_itself() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = server(6).await;
    let [one, _other] = two(&sim, &redis.url(), &[ONE_SLOT, KEYS, PATIENT]).await;
    redis.signal("STOP").await;
    let mean = modest_beside_flood(&one, &[&one]).await;
    println!("a request beside a flood while Redis is stopped: {mean:?}");
    assert!(mean < Duration::from_millis(300), "{mean:?}");
    redis.signal("CONT").await;
    until_exchanged(&one).await;
}
