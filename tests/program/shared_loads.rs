//! Two gateways that know the loads of each other through Redis.

use std::time::{Duration, Instant};

use llamatower_sim::{ModelSpec, SimHandle};

use crate::harness::{Gateway, Redis, chat, sim_with, until};
use crate::replicas::{PATIENT, REDIS};

async fn slow_to_load(load: Duration) -> SimHandle {
    sim_with(ModelSpec::new("tiny").with_slots(8).with_load_time(load)).await
}

/// Two gateways of two servers. Each of them prefers another server.
async fn gateways(sims: [&SimHandle; 2], redis: &Redis, more: &[(&str, &str)]) -> [Gateway; 2] {
    let url = redis.url();
    let mut settings = vec![(REDIS, &*url), PATIENT];
    settings.extend(more);
    let [one, other] = sims;
    [
        Gateway::start_up(&[one, other], &settings).await,
        Gateway::start_up(&[other, one], &settings).await,
    ]
}

fn loads(sims: [&SimHandle; 2]) -> u64 {
    sims.iter().map(|sim| sim.state().loads).sum()
}

async fn status(gateway: &Gateway) -> u16 {
    gateway.post("/api/chat", &chat()).await.status
}

#[tokio::test]
async fn two_gateways_load_a_model_once_if_both_are_asked_for_it_at_once() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    for slots in ["learn", "4"] {
        let load = Duration::from_millis(700);
        let (one, other) = (slow_to_load(load).await, slow_to_load(load).await);
        let sims = [&one, &other];
        let settings = [("LLAMATOWER_SLOTS", slots)];
        let gateways = gateways(sims, &redis, &settings).await;
        let began = Instant::now();
        let [first, second] = [&gateways[0], &gateways[1]].map(|gateway| async {
            let status = status(gateway).await;
            (status, began.elapsed())
        });
        let ((first, first_took), (second, second_took)) = tokio::join!(first, second);
        println!("slots {slots}: {first_took:?} and {second_took:?}");
        assert_eq!((first, second), (200, 200));
        assert_eq!(loads(sims), 1, "slots: {slots}");
        let later = first_took.max(second_took);
        assert!(later < Duration::from_secs(2), "{later:?}");
    }
}

#[tokio::test]
async fn without_redis_each_gateway_loads_the_model_that_it_needs() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let load = Duration::from_millis(700);
    let (one, other) = (slow_to_load(load).await, slow_to_load(load).await);
    let sims = [&one, &other];
    let gateways = gateways(sims, &redis, &[]).await;
    redis.signal("STOP").await;
    let (first, second) = tokio::join!(status(&gateways[0]), status(&gateways[1]));
    redis.signal("CONT").await;
    assert_eq!((first, second, loads(sims)), (200, 200, 2));
}

#[tokio::test]
async fn another_gateway_loads_the_model_if_the_first_one_was_killed() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let load = Duration::from_secs(60);
    let (slow, fast) = (slow_to_load(load).await, slow_to_load(Duration::ZERO).await);
    let url = redis.url();
    let settings = [(REDIS, &*url), PATIENT];
    let killed = Gateway::start_up(&[&slow], &settings).await;
    let other = Gateway::start_up(&[&fast, &slow], &settings).await;
    let request = killed.post_request("/api/chat", &chat());
    let loading = tokio::spawn(async move { request.send().await.is_ok() });
    slow.wait_for(|state| state.loads == 1).await;
    // It was renewed once.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let killing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(loads([&slow, &fast]), 1, "it waits for the load");
        killed.signal("KILL").await;
        Instant::now()
    };
    let body = chat();
    let (answer, killed_at) = tokio::join!(other.post("/api/chat", &body), killing);
    let waited = killed_at.elapsed();
    println!("the other gateway has answered {waited:?} after the first one was killed");
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(fast.state().loads, 1);
    assert!(waited > Duration::from_secs(2), "{waited:?}");
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    assert!(!loading.await.unwrap());
}

#[tokio::test]
async fn a_model_is_preloaded_by_one_of_two_gateways() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = slow_to_load(Duration::from_secs(3)).await;
    let url = redis.url();
    let settings = [
        (REDIS, &*url),
        PATIENT,
        ("LLAMATOWER_PRELOAD_MODELS", "tiny"),
    ];
    let one = Gateway::start_up(&[&sim], &settings).await;
    sim.wait_for(|state| state.loads == 1).await;
    let other = Gateway::start_up(&[&sim], &settings).await;
    sim.wait_for(|state| !state.resident.is_empty()).await;
    for gateway in [&one, &other] {
        until("the preload is known", async || {
            let page = gateway.admin_page("/status").await.json();
            page["backends"][0]["preloads"][0]["state"] == "loaded"
        })
        .await;
    }
    let requests = sim.requests();
    let asked = requests
        .iter()
        .filter(|seen| seen.path() == "/api/generate");
    assert_eq!(asked.count(), 1);
}
