//! What an attempt that has failed leaves behind for its request, its client and the others.

use std::time::Duration;

use llamatower_sim::{Fault, FaultKind, ModelSpec, SimHandle};
use serde_json::{Value, json};

use super::queue::{chats, send_chat, until_waiting};
use crate::harness::{
    Cloud, Connection, Gateway, Reply, chat, keys, load, long_stream, send, sim_with, tiny, with,
    within_limit,
};

/// Sends a chat to each of two servers with one slot; the connection of the first server's is the first.
async fn one_at_each(
    gateway: &Gateway,
    lost: &SimHandle,
    sound: &SimHandle,
) -> (Connection, Connection) {
    let first = send_chat(gateway).await;
    within_limit("a chat at a server", async {
        while chats(lost) + chats(sound) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let is_first_lost = chats(lost) > 0;
    let second = send_chat(gateway).await;
    within_limit("a chat at each server", async {
        while chats(lost) == 0 || chats(sound) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    match is_first_lost {
        true => (first, second),
        false => (second, first),
    }
}

#[tokio::test]
async fn a_retried_request_is_not_refused_because_the_queue_is_full_by_now() {
    let (lost, sound) = (long_stream().await, long_stream().await);
    for sim in [&lost, &sound] {
        load(sim).await;
    }
    lost.arm(Fault::new(FaultKind::Hang).for_path("/api/chat"));
    let settings = [
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_QUEUE_MAX_WAITING", "1"),
    ];
    let gateway = Gateway::start_up(&[&lost, &sound], &settings).await;
    let (mut unlucky, holder) = one_at_each(&gateway, &lost, &sound).await;
    until_waiting(&gateway, (2, 0)).await;
    let mut newcomer = send_chat(&gateway).await;
    until_waiting(&gateway, (2, 1)).await;

    lost.kill();
    until_waiting(&gateway, (1, 2)).await;
    drop(holder);
    assert_eq!(unlucky.head().await.status, 200);
    until_waiting(&gateway, (1, 1)).await;
    drop(unlucky);
    assert_eq!(newcomer.head().await.status, 200);
}

/// The clients that wait for a slot, in the order in which they get one.
async fn next_clients(gateway: &Gateway) -> Vec<String> {
    let status = gateway.admin_page("/status/overview").await.json();
    let mut rows = status["waiting"].as_array().unwrap().clone();
    rows.sort_by_key(|row| row["ahead"].as_u64());
    let client = |row: &Value| row["client"].as_str().unwrap().to_owned();
    rows.iter().map(client).collect()
}

#[tokio::test]
async fn failed_requests_cost_their_client_no_turn_and_do_not_shorten_the_predicted_wait() {
    let model = ModelSpec::new("tiny").with_pace(Duration::from_millis(20));
    let sim = sim_with(model.with_slots(8).with_reply_tokens(10)).await;
    let keys = keys(&["ada", "ben", "cid", "eve"]);
    let settings = [("LLAMATOWER_API_KEYS", &*keys), ("LLAMATOWER_SLOTS", "1")];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let chat_of = |client: &str| {
        let request = gateway.post_request("/api/chat", &chat());
        request.bearer_auth(format!("{client}-secret"))
    };
    for _ in 0..4 {
        assert_eq!(send(chat_of("eve")).await.status, 200);
    }
    let refusal = FaultKind::Status {
        status: 400,
        body: "no".into(),
    };
    for (kind, status) in [(refusal, 400), (FaultKind::LoadFailure, 500)] {
        sim.arm(Fault::new(kind).for_path("/api/chat").times(8));
        for _ in 0..8 {
            assert_eq!(send(chat_of("ada")).await.status, status);
        }
    }
    sim.arm(Fault::new(FaultKind::stall_after(1)).for_path("/api/chat"));
    let held = chat_of("eve").send().await.unwrap();
    assert_eq!(held.status(), 200);
    let status = gateway.admin_page("/status").await.json();
    let predicted = status["queue"][0]["predicted_wait"].as_f64().unwrap();
    assert!(predicted > 0.1, "{predicted}");

    let mut waiting = Vec::new();
    for (behind, client) in ["ben", "ada", "cid"].into_iter().enumerate() {
        waiting.push(tokio::spawn(chat_of(client).send()));
        until_waiting(&gateway, (1, behind as u64 + 1)).await;
    }
    let order = next_clients(&gateway).await;
    assert_eq!(order, ["key:ben", "key:ada", "key:cid"]);
}

#[tokio::test]
async fn a_request_that_fails_at_a_good_server_is_answered_by_one_that_is_avoided() {
    let (avoided, good) = (tiny().await, tiny().await);
    load(&avoided).await;
    let gateway = Gateway::start_up(&[&avoided, &good], &[]).await;
    let busy = Fault::new(FaultKind::Busy).for_path("/api/chat");
    avoided.arm(busy.times(1));
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    assert_eq!((chats(&avoided), chats(&good)), (1, 1));
    let fails = Fault::new(FaultKind::LoadFailure).for_path("/api/chat");
    good.arm(fails.times(1));
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.header("x-llamatower-backend"),
        avoided.addr().to_string()
    );
}

#[tokio::test]
async fn a_request_that_the_cloud_does_not_answer_goes_back_to_its_place_in_the_queue() {
    let (sim, cloud) = (long_stream().await, Cloud::start().await);
    let keys = keys(&["ada", "ben", "eve"]);
    let mut settings = cloud.settings().to_vec();
    settings.extend([
        ("LLAMATOWER_API_KEYS", &*keys),
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_QUEUE_MAX_WAITING", "2"),
        ("LLAMATOWER_CLOUD_WHEN", "busy"),
        ("LLAMATOWER_CLOUD_BUSY_AFTER", "1s"),
        ("LLAMATOWER_CLOUD_KEYS_OPT_OUT", "ben"),
    ]);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let chat_of = |client: &str| {
        let request = gateway.post_request("/api/chat", &chat());
        request.bearer_auth(format!("{client}-secret"))
    };
    let held = chat_of("eve").send().await.unwrap();
    assert_eq!(held.status(), 200);
    cloud.reply(Reply::Refusal(429, "retry-after: 120\r\n"));
    let first = tokio::spawn(chat_of("ada").send());
    until_waiting(&gateway, (1, 1)).await;
    let second = tokio::spawn(chat_of("ben").send());
    until_waiting(&gateway, (1, 2)).await;
    let is_it = |line: &Value| line["message"] == "the cloud service has not answered a request";
    gateway.logged("the refusal of the cloud", is_it).await;
    until_waiting(&gateway, (1, 2)).await;
    assert_eq!(next_clients(&gateway).await, ["key:ada", "key:ben"]);
    drop(held);
    let answer = within_limit("the first one's turn", first).await.unwrap();
    assert_eq!(answer.unwrap().status(), 200);
    drop(second);
}

/// Waits until so many requests wait for `tiny` and `small`.
async fn until_each_waits(gateway: &Gateway, expected: [u64; 2]) {
    within_limit("the expected queues", async {
        loop {
            let status = gateway.admin_page("/status").await.json();
            let waiting = |model: &str| {
                let rows = status["queue"].as_array().unwrap();
                let is_it = |row: &&Value| row["model"].as_str().unwrap().starts_with(model);
                let row = rows.iter().find(is_it);
                row.map_or(0, |row| row["waiting"].as_u64().unwrap())
            };
            if ["tiny", "small"].map(waiting) == expected {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_the_cloud_does_not_answer_is_new_in_the_queue_of_a_fallback_model() {
    let (sim, cloud) = (long_stream().await, Cloud::start().await);
    let small = ModelSpec::new("small").with_pace(Duration::from_millis(20));
    let other = sim_with(small.with_slots(8).with_reply_tokens(1000)).await;
    let keys = keys(&["ada", "ben", "eve"]);
    let mut settings = cloud.settings().to_vec();
    settings.extend([
        ("LLAMATOWER_API_KEYS", &*keys),
        ("LLAMATOWER_ALIASES", "smart=tiny|small"),
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_QUEUE_MAX_WAITING", "1"),
        ("LLAMATOWER_CLOUD_WHEN", "busy"),
        ("LLAMATOWER_CLOUD_BUSY_AFTER", "1s"),
        ("LLAMATOWER_CLOUD_KEYS_OPT_OUT", "ben"),
    ]);
    let gateway = Gateway::start_up(&[&sim, &other], &settings).await;
    let chat_of = |client: &str, model: &str| {
        let body = with(chat(), json!({ "model": model }));
        let request = gateway.post_request("/api/chat", &body);
        request.bearer_auth(format!("{client}-secret"))
    };
    let held = chat_of("eve", "tiny").send().await.unwrap();
    let held_other = chat_of("eve", "small").send().await.unwrap();
    assert!(held.status().is_success() && held_other.status().is_success());
    let waits_for_other = tokio::spawn(chat_of("ben", "small").send());
    until_each_waits(&gateway, [0, 1]).await;
    cloud.reply(Reply::Refusal(429, "retry-after: 120\r\n"));
    let back = tokio::spawn(send(chat_of("ada", "smart")));
    until_each_waits(&gateway, [1, 1]).await;
    let is_it = |line: &Value| line["message"] == "the cloud service has not answered a request";
    gateway.logged("the refusal of the cloud", is_it).await;
    until_each_waits(&gateway, [1, 1]).await;

    // Its model fails, and the queue of the other one is full.
    let fails = Fault::new(FaultKind::LoadFailure).for_path("/api/chat");
    sim.arm(fails.times(9));
    drop(held);
    let answer = within_limit("an answer without a wait", back)
        .await
        .unwrap();
    assert!(answer.status >= 500, "{}: {}", answer.status, answer.text);
    until_each_waits(&gateway, [0, 1]).await;
    drop((held_other, waits_for_other));
}

#[tokio::test]
async fn a_request_that_waits_again_after_a_failed_attempt_goes_to_the_cloud_in_time() {
    // The attempt fails before the time for the cloud has passed, or after it.
    for (limit, fails_after) in [("1s", 0), ("50ms", 200)] {
        let (lost, sound) = (long_stream().await, long_stream().await);
        load(&lost).await;
        load(&sound).await;
        lost.arm(Fault::new(FaultKind::Hang).for_path("/api/chat"));
        let cloud = Cloud::start().await;
        let mut settings = cloud.settings().to_vec();
        settings.extend([
            ("LLAMATOWER_SLOTS", "1"),
            ("LLAMATOWER_CLOUD_WHEN", "busy"),
            ("LLAMATOWER_CLOUD_ANONYMOUS", "true"),
            ("LLAMATOWER_CLOUD_BUSY_AFTER", limit),
        ]);
        let gateway = Gateway::start_up(&[&lost, &sound], &settings).await;
        let (mut unlucky, _holder) = one_at_each(&gateway, &lost, &sound).await;
        // No event tells that the time for the cloud has passed.
        tokio::time::sleep(Duration::from_millis(fails_after)).await;
        lost.kill();
        let head = unlucky.head().await;
        assert_eq!(head.status, 200, "{limit}");
        assert_eq!(head.get("x-llamatower-backend"), "cloud", "{limit}");
    }
}

#[tokio::test]
async fn the_next_model_of_an_alias_waits_no_longer_than_until_the_cloud_is_asked() {
    let (failing, busy) = (sim_with(ModelSpec::new("other")).await, long_stream().await);
    // Otherwise the expected load sends the first request to the cloud.
    load(&busy).await;
    let error = FaultKind::LoadFailure;
    failing.arm(Fault::new(error).for_path("/api/chat"));
    let cloud = Cloud::start().await;
    let mut settings = cloud.settings().to_vec();
    settings.extend([
        ("LLAMATOWER_ALIASES", "gpt=other|tiny"),
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_CLOUD_WHEN", "busy"),
        ("LLAMATOWER_CLOUD_ANONYMOUS", "true"),
        ("LLAMATOWER_CLOUD_BUSY_AFTER", "300ms"),
    ]);
    let gateway = Gateway::start_up(&[&failing, &busy], &settings).await;
    let mut holder = send_chat(&gateway).await;
    holder.head().await;
    let body = with(chat(), json!({"model": "gpt"}));
    let answer = gateway.post("/api/chat", &body).await;
    assert_eq!(chats(&failing), 1);
    let served = answer.header("x-llamatower-backend");
    assert_eq!(served, "cloud", "{}", answer.text);
}
