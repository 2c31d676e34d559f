//! A server that refuses, fails or hangs while its probes answer.

use std::time::{Duration, Instant};

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};
use serde_json::{Value, json};

use crate::harness::{
    Gateway, chat, eventually, keys, load, send, sim_with, tiny, with, within_limit,
};
use crate::queue::until_waiting;

/// The paths on which a model runs.
const INFERENCE: [&str; 2] = ["/api/chat", "/api/generate"];

fn arm(sim: &SimHandle, kind: &FaultKind) {
    for path in INFERENCE {
        sim.arm(Fault::new(kind.clone()).for_path(path));
    }
}

/// A gateway that knows the models of both servers. The bad one has the model in memory, so that it
/// is preferred as long as nothing speaks against it.
async fn gateway(bad: &SimHandle, good: &SimHandle) -> Gateway {
    load(bad).await;
    Gateway::start_up(&[bad, good], &[]).await
}

/// The requests for `/api/chat` that a server has received.
fn chats(sim: &SimHandle) -> usize {
    let requests = sim.requests();
    let chats = requests.iter().filter(|seen| seen.path() == "/api/chat");
    chats.count()
}

/// Why the gateway avoids a server, from `/status`.
async fn avoided(gateway: &Gateway, sim: &SimHandle) -> Value {
    let status = gateway.admin_page("/status").await.json();
    let rows = status["backends"].as_array().unwrap();
    let name = sim.addr().to_string();
    let row = rows.iter().find(|row| row["name"] == *name).unwrap();
    row["avoided"].clone()
}

async fn until_used_again(gateway: &Gateway, sim: &SimHandle) {
    within_limit("the server to be used again", async {
        while avoided(gateway, sim).await != json!([]) {
            gateway.post("/api/chat", &chat()).await;
        }
    })
    .await;
}

/// Waits until the gateway has noticed that all clients are gone.
async fn until_idle(gateway: &Gateway) {
    within_limit("no request in flight", async {
        loop {
            let status = gateway.admin_page("/status").await.json();
            let backends = status["backends"].as_array().unwrap().clone();
            if backends.iter().all(|row| row["in_flight"] == 0) {
                return;
            }
        }
    })
    .await;
}

/// The statuses of 40 requests, one after the other.
async fn forty(gateway: &Gateway) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(gateway.post("/api/chat", &chat()).await.status);
    }
    statuses.retain(|status| *status != 200);
    statuses
}

#[tokio::test]
async fn no_request_fails_at_a_server_that_answers_503_and_few_are_sent_there() {
    let (bad, good) = (tiny().await, tiny().await);
    let gateway = gateway(&bad, &good).await;
    arm(&bad, &FaultKind::Busy);
    assert_eq!(forty(&gateway).await, [0u16; 0], "other statuses than 200");
    assert!(chats(&bad) <= 5, "{} of 40 were tried there", chats(&bad));
    let row = &avoided(&gateway, &bad).await[0];
    assert_eq!(
        (&row["model"], &row["reason"]),
        (&json!("tiny:latest"), &json!("busy"))
    );
    assert!(row["trial_in"].as_f64().unwrap() <= 30.0, "{row}");
    bad.clear_faults();
    until_used_again(&gateway, &bad).await;
}

#[tokio::test]
async fn no_request_fails_at_a_server_that_cannot_load_the_model() {
    let (bad, good) = (tiny().await, tiny().await);
    let gateway = gateway(&bad, &good).await;
    arm(&bad, &FaultKind::LoadFailure);
    assert_eq!(forty(&gateway).await, [0u16; 0], "other statuses than 200");
    assert!(chats(&bad) <= 5, "{} of 40 were tried there", chats(&bad));
    assert_eq!(avoided(&gateway, &bad).await[0]["reason"], "failing");
    assert_eq!(avoided(&gateway, &good).await, json!([]));
}

#[tokio::test]
async fn a_server_that_loses_connections_is_avoided_too() {
    let (bad, good) = (tiny().await, tiny().await);
    let lost = FaultKind::Drop {
        ending: llamatower_sim::Ending::Reset,
    };
    let gateway = gateway(&bad, &good).await;
    arm(&bad, &lost);
    assert_eq!(forty(&gateway).await, [0u16; 0], "other statuses than 200");
    assert!(chats(&bad) <= 5, "{} of 40 were tried there", chats(&bad));
}

/// Waits until a request is due at a server that has failed, as a trial.
async fn until_trial_due(gateway: &Gateway, sim: &SimHandle) {
    eventually("a trial", async || {
        let row = avoided(gateway, sim).await[0].clone();
        (row["trial_in"].as_f64()? == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_retried_request_that_waits_keeps_no_other_one_from_the_server_where_it_has_failed() {
    let endless = ModelSpec::new("tiny").with_pace(Duration::from_millis(20));
    let (bad, good) = (
        tiny().await,
        sim_with(endless.with_reply_tokens(1_000_000)).await,
    );
    load(&bad).await;
    let gateway = Gateway::start_up(&[&bad, &good], &[("LLAMATOWER_SLOTS", "1")]).await;
    arm(&bad, &FaultKind::Busy);
    let mut holder = gateway.connect().await;
    holder.post("/api/chat", &chat()).await;
    assert_eq!(holder.head().await.status, 200, "of the good server");
    until_trial_due(&gateway, &bad).await;
    let mut retried = gateway.connect().await;
    retried.post("/api/chat", &chat()).await;
    until_waiting(&gateway, (1, 1)).await;
    assert_eq!(chats(&bad), 2, "it has failed there");
    bad.clear_faults();
    until_trial_due(&gateway, &bad).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    assert_eq!(chats(&bad), 3);
    drop(holder);
    assert_eq!(retried.head().await.status, 200);
}

#[tokio::test]
async fn a_request_that_two_servers_lost_is_sent_to_no_third_one() {
    let both = Sim::builder()
        .model(ModelSpec::new("tiny"))
        .model(ModelSpec::new("small"));
    let servers = [tiny().await, tiny().await, both.start().await.unwrap()];
    let lost = FaultKind::Drop {
        ending: llamatower_sim::Ending::Fin,
    };
    for server in &servers {
        arm(server, &lost);
    }
    // The further model of an alias would be the same request.
    let settings = [("LLAMATOWER_ALIASES", "fast=tiny|small")];
    let all: Vec<_> = servers.iter().collect();
    let gateway = Gateway::start_up(&all, &settings).await;
    let body = with(chat(), json!({"model": "fast"}));
    let answer = gateway.post("/api/chat", &body).await;
    let error = answer.json()["error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(answer.status, 502, "{error}");
    let asked = servers.iter().filter(|server| chats(server) > 0);
    let asked: Vec<_> = asked.map(|server| server.addr().to_string()).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(error.contains("two servers"), "{error}");
    let begin = "servers closed the connection while they worked on a request";
    let is_it = |line: &Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with(begin))
    };
    let line = gateway.logged("the warning", is_it).await;
    assert_eq!(
        (&line["level"], &line["path"]),
        (&json!("WARN"), &json!("/api/chat")),
        "{line}"
    );
    assert_eq!(
        (&line["model"], &line["client"]),
        (&json!("fast"), &json!("127.0.0.1")),
        "{line}"
    );
    assert_eq!(line["request_id"], *answer.header("x-request-id"), "{line}");
    for server in &asked {
        assert!(error.contains(server), "{error}");
        assert!(line["servers"].as_str().unwrap().contains(server), "{line}");
    }
}

#[tokio::test]
async fn the_loss_of_an_idle_connection_is_not_blamed_on_the_request() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[]).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    let lost = FaultKind::Drop {
        ending: llamatower_sim::Ending::Fin,
    };
    // The idle connection, and a new one, as when a server restarts.
    sim.arm(Fault::new(lost).for_path("/api/chat").times(2));
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(chats(&sim), 4);
}

#[tokio::test]
async fn a_request_that_one_server_lost_is_answered_by_another() {
    let (losing, refusing, good) = (tiny().await, tiny().await, tiny().await);
    let lost = FaultKind::Drop {
        ending: llamatower_sim::Ending::Fin,
    };
    load(&losing).await;
    arm(&losing, &lost);
    let gateway = Gateway::start_up(&[&losing, &refusing, &good], &[]).await;
    refusing.arm(FaultKind::Refuse { ms: 60_000 });
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    assert_eq!((chats(&losing), chats(&good)), (1, 1));
}

#[tokio::test]
async fn the_only_server_of_a_model_is_used_whatever_it_did() {
    let sim = tiny().await;
    sim.arm(
        Fault::new(FaultKind::LoadFailure)
            .for_path("/api/chat")
            .times(3),
    );
    let gateway = Gateway::start(&[&sim], &[]).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(gateway.post("/api/chat", &chat()).await.status);
    }
    assert_eq!(statuses, [500, 500, 500, 200]);
}

#[tokio::test]
async fn a_client_error_does_not_make_a_server_avoided() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let messages = json!([{"role": "user", "content": "hello"}]);
    let wrong = json!({"model": "tiny", "messages": messages, "think": true});
    assert_eq!(gateway.post("/api/chat", &wrong).await.status, 400);
    assert_eq!(avoided(&gateway, &sim).await, json!([]));
}

/// Requests that a real Ollama answers with 500, with its text.
fn mistakes() -> [(Value, Option<&'static str>); 3] {
    let chat = |part: Value| with(chat(), part);
    [
        // The simulated server checks it as Ollama does.
        (chat(json!({"options": {"num_ctx": "8192"}})), None),
        (
            chat(json!({"format": {"type": "nonsense"}})),
            Some(r#"{"error":"invalid JSON schema in format"}"#),
        ),
        // The model's own template.
        (
            chat(json!({})),
            Some(r#"{"error":"template: :1: unclosed action"}"#),
        ),
    ]
}

#[tokio::test]
async fn a_500_for_a_mistake_of_the_request_is_no_failure_of_a_server() {
    let (one, other) = (tiny().await, tiny().await);
    let gateway = gateway(&one, &other).await;
    for (request, text) in mistakes() {
        one.clear_faults();
        if let Some(text) = text {
            let body = text.to_owned();
            arm(&one, &FaultKind::Status { status: 500, body });
        }
        let before = chats(&one);
        let answer = gateway.post("/api/chat", &request).await;
        assert_eq!(answer.status, 500, "Ollama's own status: {answer:?}");
        assert_eq!(answer.text, text.unwrap_or(&answer.text), "as it was sent");
        assert_eq!(
            (chats(&one) - before, chats(&other)),
            (1, 0),
            "no retry: {request}"
        );
        assert_eq!(avoided(&gateway, &one).await, json!([]), "{request}");
    }
}

#[tokio::test]
async fn the_log_tells_whether_another_server_has_the_model() {
    for (servers, message) in [
        (
            1,
            "the backend has failed with this model, and no other one has it",
        ),
        (
            2,
            "the backend is avoided for this model while another has it",
        ),
    ] {
        let sims = [tiny().await, tiny().await];
        load(&sims[0]).await;
        let sims: Vec<_> = sims.iter().take(servers).collect();
        let gateway = Gateway::start_up(&sims, &[]).await;
        arm(sims[0], &FaultKind::LoadFailure);
        gateway.post("/api/chat", &chat()).await;
        let is_it = |line: &Value| line["message"] == message;
        let line = gateway.logged(message, is_it).await;
        assert_eq!(line["reason"], "failing", "{line}");
    }
}

/// A chat whose prompt begins with this number, so that no part of it is in a prefix cache.
fn long_prompt(number: u32) -> Value {
    let content = format!("{number} {}", "word ".repeat(2000));
    json!({"model": "tiny", "messages": [{"role": "user", "content": content}]})
}

#[tokio::test]
async fn clients_that_leave_before_a_first_byte_is_due_move_nobody_to_another_server() {
    let slow = async || {
        let model = ModelSpec::new("tiny").with_slots(8);
        sim_with(model.with_prompt_rate(1000.0)).await
    };
    let (one, other) = (slow().await, slow().await);
    load(&one).await;
    let keys = keys(&["ada", "bob"]);
    let gateway = Gateway::start_up(&[&one, &other], &[("LLAMATOWER_API_KEYS", &keys)]).await;
    let ask = |number: u32, name: &str| {
        let request = gateway.post_request("/api/chat", &long_prompt(number));
        request.bearer_auth(format!("{name}-secret"))
    };
    let begun = Instant::now();
    assert_eq!(send(ask(0, "ada")).await.status, 200);
    // The gateway knows it now.
    let usual = begun.elapsed();
    assert!(usual > Duration::from_secs(1), "{usual:?}");
    for (number, name) in [(1, "ada"), (2, "bob"), (3, "ada"), (4, "bob")] {
        let left = ask(number, name).timeout(Duration::from_millis(700)).send();
        assert!(left.await.unwrap_err().is_timeout());
        until_idle(&gateway).await;
    }
    assert_eq!(avoided(&gateway, &one).await, json!([]));
    assert_eq!(chats(&other), 0, "the model is not in its memory");
}

#[tokio::test]
async fn a_server_that_hangs_gets_no_request_until_it_answers_the_gateway_again() {
    let (bad, good) = (tiny().await, tiny().await);
    let gateway = gateway(&bad, &good).await;
    arm(&bad, &FaultKind::Hang);
    let ask = async || {
        let request = gateway.post_request("/api/chat", &chat());
        let answer = request.timeout(Duration::from_secs(2)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    };
    let mut gave_up = 0;
    for _ in 0..8 {
        gave_up += usize::from(!ask().await);
        until_idle(&gateway).await;
    }
    assert_eq!(gave_up, 2, "two clients that give up are enough");
    assert_eq!(avoided(&gateway, &bad).await[0]["reason"], "silent");
    bad.clear_faults();
    let is_back = |line: &Value| line["message"] == "the backend responds again with this model";
    gateway.logged("the gateway's own trial", is_back).await;
    assert_eq!(avoided(&gateway, &bad).await, json!([]));
}
