//! Two gateways that share the slots of a server through Redis.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use llamatower_sim::{ModelSpec, SimHandle};
use serde_json::json;

use crate::harness::{Gateway, Redis, chat, long_stream, sim_with, tiny, until, with};
use crate::queue::until_waiting;
use crate::replicas::{PATIENT, two};

const SLOTS: &str = "LLAMATOWER_SLOTS";
const ONE_SLOT: (&str, &str) = (SLOTS, "1");
/// At the end of a response the simulator learns later than the gateway that it has ended.
const TOLERANCE: Duration = Duration::from_millis(5);

/// A server that could run more requests than the gateways may send. A response takes 60 ms.
async fn server() -> SimHandle {
    let model = ModelSpec::new("tiny")
        .with_slots(8)
        .with_pace(Duration::from_millis(6))
        .with_reply_tokens(10);
    sim_with(model).await
}

/// The most requests for `path` that were at the server at the same time.
fn most_at_once(sim: &SimHandle, path: &str) -> usize {
    let requests = sim.requests();
    let times: Vec<_> = requests
        .iter()
        .filter(|request| request.path() == path)
        .map(|request| (request.arrived(), request.ended().unwrap()))
        .collect();
    let at = |time| {
        let during = times
            .iter()
            .filter(|(from, to)| *from <= time && time < *to - TOLERANCE);
        during.count()
    };
    times.iter().map(|(from, _)| at(*from)).max().unwrap_or(0)
}

/// Sends this number of requests at once, in turns to these gateways; returns the longest time.
async fn longest(gateways: &[&Gateway], callers: usize) -> Duration {
    let calling = (0..callers).map(async |number| {
        let began = Instant::now();
        let gateway = gateways[number % gateways.len()];
        let answer = gateway.post("/api/chat", &chat()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        began.elapsed()
    });
    join_all(calling).await.into_iter().max().unwrap()
}

/// The slots of a model that a gateway uses.
async fn limit(gateway: &Gateway) -> Option<u64> {
    let page = gateway.admin_page("/status").await.json();
    page.pointer("/backends/0/models/0/limit")?.as_u64()
}

async fn until_limit(gateway: &Gateway, expected: u64) {
    until("the limit", async || limit(gateway).await == Some(expected)).await;
}

#[tokio::test]
async fn two_gateways_never_send_more_than_the_slots_and_nobody_waits_longer() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = server().await;
    let without = Gateway::start_up(&[&sim], &[ONE_SLOT]).await;
    longest(&[&without], 2).await;
    let alone = longest(&[&without], 40).await;
    let [one, other] = two(&sim, &redis.url(), &[ONE_SLOT, PATIENT]).await;
    longest(&[&one, &other], 2).await;
    let leasing = longest(&[&one], 40).await;
    let both = longest(&[&one, &other], 40).await;
    assert_eq!(most_at_once(&sim, "/api/chat"), 1);
    let factor = both.as_secs_f64() / alone.as_secs_f64();
    println!(
        "the longest of 40: {alone:?} with one gateway, {leasing:?} if it leases, {both:?} with two: {factor:.2}"
    );
    assert!(factor < 1.3, "{alone:?} with one, {both:?} with two");
}

#[tokio::test]
async fn the_most_requests_in_flight_of_a_server_are_shared_too() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = server().await;
    let settings = [("LLAMATOWER_BACKEND_MAX_IN_FLIGHT", "2"), PATIENT];
    let [one, other] = two(&sim, &redis.url(), &settings).await;
    longest(&[&one, &other], 20).await;
    assert_eq!(most_at_once(&sim, "/api/chat"), 2);
}

#[tokio::test]
async fn the_slot_of_a_gateway_that_was_killed_is_free_again() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = long_stream().await;
    let [one, other] = two(&sim, &redis.url(), &[ONE_SLOT, PATIENT]).await;
    let held = tokio::spawn({
        let request = one.post_request("/api/chat", &chat());
        async move { request.send().await.unwrap().bytes().await.is_ok() }
    });
    sim.wait_for(|state| state.generating == 1).await;
    // Its lease was renewed once.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    one.signal("KILL").await;
    let killed = Instant::now();
    let short = with(chat(), json!({"options": {"num_predict": 2}}));
    let answer = other.post("/api/chat", &short).await;
    let waited = killed.elapsed();
    assert_eq!(answer.status, 200, "{}", answer.text);
    println!("the slot was free after {waited:?}");
    assert!(waited > Duration::from_secs(2), "{waited:?}");
    assert!(waited < Duration::from_secs(6), "{waited:?}");
    assert!(!held.await.unwrap());
}

#[tokio::test]
async fn a_cancelled_request_releases_its_slot() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = long_stream().await;
    let [one, other] = two(&sim, &redis.url(), &[ONE_SLOT, PATIENT]).await;
    let request = one.post_request("/api/chat", &chat());
    let held = tokio::spawn(async move { request.send().await.unwrap().bytes().await });
    sim.wait_for(|state| state.generating == 1).await;
    let short = with(chat(), json!({"options": {"num_predict": 2}}));
    let waiting = other.post("/api/chat", &short);
    let cancelling = async {
        until_waiting(&other, (0, 1)).await;
        assert_eq!(sim.state().generating, 1);
        held.abort();
        Instant::now()
    };
    let (answer, cancelled) = tokio::join!(waiting, cancelling);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(cancelled.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn while_redis_is_stopped_slots_are_divided_or_not_as_the_setting_says() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    for (choice, expected) in [("share", 2), ("open", 5)] {
        let sim = tiny().await;
        let settings = [
            (SLOTS, "5"),
            ("LLAMATOWER_REDIS_DOWN_SLOTS", choice),
            PATIENT,
        ];
        let [one, other] = two(&sim, &redis.url(), &settings).await;
        let both = [&one, &other];
        longest(&both, 4).await;
        for gateway in both {
            until_limit(gateway, 5).await;
        }
        redis.signal("STOP").await;
        longest(&both, 4).await;
        for gateway in both {
            until_limit(gateway, expected).await;
        }
        let began = Instant::now();
        longest(&both, 20).await;
        assert!(began.elapsed() < Duration::from_secs(2), "none waits");
        redis.signal("CONT").await;
        for gateway in both {
            until_limit(gateway, 5).await;
        }
        longest(&both, 4).await;
    }
}

#[tokio::test]
async fn learned_slots_need_no_lease() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let gateways = two(&sim, &redis.url(), &[PATIENT]).await;
    longest(&[&gateways[0], &gateways[1]], 4).await;
    let calls = gateways[0].sample(
        "llamatower_redis_call_seconds_count",
        &["operation=\"lease\""],
    );
    assert_eq!(calls.await, None);
}
