//! The queue for the slots of backends, and the breaker of each backend.

use std::time::Duration;

use llamatower_sim::{Ending, Fault, FaultKind, ModelSpec, Sim, SimHandle};
use serde_json::json;

use crate::harness::{
    Connection, Gateway, chat, keys, load, long_stream, run, send, sim_with, tiny, with,
    within_limit,
};

/// The requests for `tiny` in the queue, from `/status`: in flight and waiting.
async fn waiting(gateway: &Gateway) -> (u64, u64) {
    let status = gateway.admin_page("/status").await.json();
    let row = status["queue"].as_array().unwrap().first().cloned();
    let count = |name: &str| row.as_ref().map_or(0, |row| row[name].as_u64().unwrap());
    (count("in_flight"), count("waiting"))
}

pub(crate) async fn until_waiting(gateway: &Gateway, expected: (u64, u64)) {
    within_limit("the expected queue", async {
        while waiting(gateway).await != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Sends a chat request without reading its response.
pub(crate) async fn send_chat(gateway: &Gateway) -> Connection {
    let mut connection = gateway.connect().await;
    connection.post("/api/chat", &chat()).await;
    connection
}

#[tokio::test]
async fn requests_above_the_slots_wait_in_the_gateway_visible_and_limited() {
    let sim = long_stream().await;
    let settings = [
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_QUEUE_MAX_WAITING", "1"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let mut first = send_chat(&gateway).await;
    first.head().await;
    let mut second = send_chat(&gateway).await;
    until_waiting(&gateway, (1, 1)).await;
    assert_eq!(
        sim.state().generating,
        1,
        "it waits in the gateway, not in the server"
    );
    assert_eq!(gateway.metric("llamatower_queue_depth").await, 1.0);
    assert_eq!(gateway.metric("llamatower_backend_slots").await, 1.0);

    let refusal = gateway.post("/api/chat", &chat()).await;
    assert_eq!(
        (refusal.status, refusal.header("retry-after").is_empty()),
        (503, false)
    );
    assert!(
        refusal.json()["error"].as_str().unwrap().contains("wait"),
        "{}",
        refusal.text
    );
    let show = gateway.post("/api/show", &json!({"model": "tiny"})).await;
    assert_eq!(
        show.status, 200,
        "a request without inference needs no slot"
    );

    drop(first);
    assert_eq!(second.head().await.status, 200);
    drop(second);
    until_waiting(&gateway, (0, 0)).await;
    let line = gateway
        .logged("the queued request", |line| line["queued"].is_f64())
        .await;
    assert_eq!(line["ending"], "cancelled", "{line}");
}

#[tokio::test]
async fn a_full_queue_is_the_fault_of_a_client_only_if_it_has_a_key() {
    let sim = long_stream().await;
    let limit = ("LLAMATOWER_QUEUE_MAX_WAITING_PER_KEY", "1");
    let by_address = ("LLAMATOWER_TRUSTED_PROXIES", "127.0.0.0/8");
    let keys = keys(&["ada", "ben"]);
    let by_key = ("LLAMATOWER_API_KEYS", &*keys);
    for (setting, [one, other], status, text) in [
        (
            by_address,
            ["198.51.100.1", "198.51.100.2"],
            503,
            "your address",
        ),
        (by_key, ["ada-secret", "ben-secret"], 429, "this client"),
    ] {
        let settings = [("LLAMATOWER_SLOTS", "1"), limit, setting];
        let gateway = Gateway::start(&[&sim], &settings).await;
        let chat_of = |client: &str| {
            let request = gateway.post_request("/api/chat", &chat());
            match setting == by_key {
                true => request.bearer_auth(client),
                false => request.header("x-forwarded-for", client),
            }
        };
        let held = chat_of(one).send().await.unwrap();
        assert_eq!(held.status(), 200);
        let _waiting = tokio::spawn(chat_of(one).send());
        until_waiting(&gateway, (1, 1)).await;
        let refusal = send(chat_of(one)).await;
        assert_eq!(refusal.status, status, "{}", refusal.text);
        assert!(!refusal.header("retry-after").is_empty());
        let error = refusal.json()["error"].as_str().unwrap().to_owned();
        let expected = format!(
            "the queue is full for {text}: 1 of its requests is waiting (limit: {})",
            limit.0
        );
        assert!(error.starts_with(&expected), "{error}");
        let _other = tokio::spawn(chat_of(other).send());
        until_waiting(&gateway, (1, 2)).await;
    }
}

#[tokio::test]
async fn a_request_that_leaves_the_queue_is_not_sent_to_a_backend() {
    // The first stream must not end before the test does, however slow the machine is.
    let model = ModelSpec::new("tiny").with_slots(8);
    let endless = model
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(1_000_000);
    let sim = sim_with(endless).await;
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_SLOTS", "1")]).await;
    let mut first = send_chat(&gateway).await;
    first.head().await;
    let second = send_chat(&gateway).await;
    until_waiting(&gateway, (1, 1)).await;
    drop(second);
    until_waiting(&gateway, (1, 0)).await;
    let asked = |state: &llamatower_sim::SimState| {
        let posts = state.requests.iter().filter(|seen| seen.method() == "POST");
        posts.count()
    };
    assert_eq!(asked(&sim.state()), 1);
}

#[tokio::test]
async fn a_retried_request_keeps_its_queue_position() {
    let sim = long_stream().await;
    let settings = [("LLAMATOWER_SLOTS", "1")];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let mut holder = send_chat(&gateway).await;
    holder.head().await;
    let mut unlucky = send_chat(&gateway).await;
    until_waiting(&gateway, (1, 1)).await;
    let mut second = send_chat(&gateway).await;
    until_waiting(&gateway, (1, 2)).await;
    let _third = send_chat(&gateway).await;
    until_waiting(&gateway, (1, 3)).await;

    let lost = FaultKind::Drop {
        ending: Ending::Fin,
    };
    sim.arm(Fault::new(lost).for_path("/api/chat").times(1));
    drop(holder);
    assert_eq!(second.head().await.status, 200);
    until_waiting(&gateway, (1, 2)).await;
    drop(second);
    assert_eq!(unlucky.head().await.status, 200);
    until_waiting(&gateway, (1, 1)).await;
}

#[tokio::test]
async fn a_slow_model_does_not_block_another() {
    let sim = Sim::builder()
        .model(
            ModelSpec::new("slow")
                .with_pace(Duration::from_millis(50))
                .with_reply_tokens(1000),
        )
        .model(ModelSpec::new("tiny"))
        .start()
        .await
        .unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_SLOTS", "1")]).await;
    let slow = with(chat(), json!({"model": "slow"}));
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        connection.post("/api/chat", &slow).await;
        held.push(connection);
    }
    until_waiting(&gateway, (1, 2)).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
}

#[tokio::test]
async fn a_wait_without_a_slot_is_recorded_and_is_no_overhead() {
    let slow = ModelSpec::new("slow").with_pace(Duration::from_millis(50));
    let sim = Sim::builder()
        .model(slow.with_reply_tokens(1_000_000))
        .model(ModelSpec::new("tiny"))
        .start()
        .await
        .unwrap();
    let settings = [
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_QUEUE_MAX_WAIT", "300ms"),
        ("LLAMATOWER_ALIASES", "any=slow|tiny"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let mut held = gateway.connect().await;
    let slow = with(chat(), json!({"model": "slow"}));
    held.post("/api/chat", &slow).await;
    held.head().await;
    let any = with(chat(), json!({"model": "any"}));
    assert_eq!(gateway.post("/api/chat", &any).await.status, 200);
    let line = gateway.access_line("/api/chat").await;
    assert_eq!(line["served_model"], "tiny", "{line}");
    let queued = line["queued"].as_f64().expect("it has waited");
    assert!(queued >= 0.3, "{line}");
    let sum = async |name: &str| {
        gateway
            .metric(&format!("llamatower_{name}_seconds_sum"))
            .await
    };
    assert!(sum("queue_wait").await >= 0.3);
    let rest = line["ttfb"].as_f64().unwrap() - queued;
    let overhead = sum("overhead").await;
    assert!(overhead <= rest, "{overhead} {line}");
    // Without another model, the client gets the refusal.
    assert_eq!(gateway.post("/api/chat", &slow).await.status, 503);
    let refused = gateway
        .logged("the refusal", |line| line["status"] == 503)
        .await;
    assert!(
        refused["queued"].as_f64().unwrap_or_default() >= 0.3,
        "{refused}"
    );
}

#[tokio::test]
async fn slots_for_an_unknown_server_are_an_error_that_names_it() {
    let settings = [("LLAMATOWER_SLOTS", "2,gpu-9:11434=4")];
    let exited = run(&[], &settings).await;
    assert_eq!(exited.code, Some(2));
    assert!(exited.stderr.contains("gpu-9:11434"), "{}", exited.stderr);
}

/// The state of a backend's breaker, from `/status`.
async fn breaker(gateway: &Gateway, sim: &SimHandle) -> String {
    let status = gateway.admin_page("/status").await.json();
    let backends = status["backends"].as_array().unwrap().clone();
    let mut rows = backends.into_iter();
    let row = rows.find(|row| sim.url().ends_with(row["name"].as_str().unwrap()));
    row.unwrap()["breaker"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_failing_backend_is_not_used_and_later_probed() {
    let (failing, sound) = (tiny().await, tiny().await);
    let fault = || Fault::new(FaultKind::Garbage { after_lines: None }).for_path("/api/chat");
    load(&failing).await;
    failing.arm(fault());
    let settings = [
        ("LLAMATOWER_BREAKER_FAILURES", "2"),
        ("LLAMATOWER_BREAKER_OPEN_FOR", "200ms"),
    ];
    let gateway = Gateway::start(&[&failing, &sound], &settings).await;
    within_limit("the breaker opens", async {
        while breaker(&gateway, &failing).await != "open" {
            gateway.post("/api/chat", &chat()).await;
        }
    })
    .await;
    assert_eq!(breaker(&gateway, &sound).await, "closed");
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    failing.clear_faults();
    within_limit("a probe closes it", async {
        while breaker(&gateway, &failing).await != "closed" {
            assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
        }
    })
    .await;
    gateway
        .logged("the breaker's state change", |line| line["to"] == "closed")
        .await;
}

/// The number of chats at a server.
pub(crate) fn chats(sim: &SimHandle) -> usize {
    let seen = sim.requests();
    seen.iter()
        .filter(|seen| seen.path() == "/api/chat")
        .count()
}

#[tokio::test]
async fn a_breaker_rejects_nothing_without_another_server() {
    let fault = || Fault::new(FaultKind::die_after(1, Ending::Fin)).for_path("/api/chat");
    let settings = [
        ("LLAMATOWER_BREAKER_FAILURES", "2"),
        ("LLAMATOWER_BREAKER_OPEN_FOR", "1m"),
    ];
    // One server; one of two with the model; two that both fail; two of which one is down.
    let (alone, holder, one, two, left) = tokio::join!(tiny(), tiny(), tiny(), tiny(), tiny());
    let other = sim_with(ModelSpec::new("other")).await;
    let gone = tiny().await;
    let gone_url = gone.url();
    gone.kill();
    for (fleet, with_gone) in [
        (vec![&alone], false),
        (vec![&holder, &other], false),
        (vec![&one, &two], false),
        (vec![&left], true),
    ] {
        fleet.iter().for_each(|sim| sim.arm(fault()));
        let mut settings = settings.to_vec();
        let urls = format!("{},{gone_url}", left.url());
        if with_gone {
            settings.push(("OLLAMA_URL", &urls));
        }
        let gateway = Gateway::start(&fleet, &settings).await;
        within_limit("a breaker that is open", async {
            while breaker(&gateway, fleet[0]).await != "open" {
                // The stream breaks, so the client's library reports an error.
                let broken = gateway
                    .post_request("/api/chat", &chat())
                    .send()
                    .await
                    .unwrap();
                assert_eq!(broken.status(), 200);
                broken.text().await.unwrap_err();
            }
        })
        .await;
        fleet.iter().for_each(|sim| sim.clear_faults());
        for _ in 0..5 {
            let answer = gateway.post("/api/chat", &chat()).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert!(!answer.text.contains("error"), "{}", answer.text);
        }
        let mut judged = false;
        for sim in &fleet {
            judged |= breaker(&gateway, sim).await == "closed";
        }
        assert!(judged, "successes close a breaker");
    }
}

#[tokio::test]
async fn a_busy_response_is_passed_on_at_once_without_another_server() {
    let (alone, holder, busy, idle) = tokio::join!(tiny(), tiny(), tiny(), tiny());
    let other = sim_with(ModelSpec::new("other")).await;
    for (fleet, status, asked) in [
        (vec![&alone], 503, 1),
        (vec![&holder, &other], 503, 1),
        (vec![&busy, &idle], 200, 1),
    ] {
        load(fleet[0]).await;
        fleet[0].arm(Fault::new(FaultKind::Busy).for_path("/api/chat"));
        let gateway = Gateway::start_up(&fleet, &[]).await;
        let answer = within_limit("an answer", async {
            loop {
                let answer = gateway.post("/api/chat", &chat()).await;
                if chats(fleet[0]) > 0 {
                    return answer;
                }
            }
        })
        .await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert_eq!(chats(fleet[0]), asked);
        if status == 503 {
            assert_eq!(answer.header("retry-after"), "1");
            let retries = gateway.metric("llamatower_retries_total").await;
            assert_eq!(retries, 0.0);
        }
    }
}

#[tokio::test]
async fn a_first_byte_target_limits_concurrent_requests() {
    let model = ModelSpec::new("tiny")
        .with_slots(64)
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(1000);
    let sim = sim_with(model).await;
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_FIRST_BYTE_TARGET", "10s")]).await;
    let mut held = Vec::new();
    // The limit rises while requests succeed, but more slowly than unfinished requests arrive here.
    let refusal = loop {
        let mut connection = send_chat(&gateway).await;
        let head = connection.head().await;
        if head.status != 200 {
            break head;
        }
        held.push(connection);
        assert!(held.len() < 64, "no request was refused");
    };
    assert_eq!(refusal.status, 503);
    assert!(!refusal.get("retry-after").is_empty());
    drop(held);
    within_limit("a free permit", async {
        while send_chat(&gateway).await.head().await.status != 200 {}
    })
    .await;
}
