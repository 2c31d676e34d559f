//! Context sizes and `keep_alive`: what a server gets in the place of what a client asks for.

use std::time::Duration;

use llamatower_sim::{Fault, FaultKind, ModelSpec, SimHandle};
use serde_json::{Value, json};

use crate::harness::{
    ADA, ADMIN_BEN, Answer, Connection, Gateway, chat, send, sim_with, with, within_limit,
};

const NUM_CTX: &str = "x-llamatower-num-ctx";
const BACKEND: &str = "x-llamatower-backend";

/// A server whose `tiny` has a context of 4096 by default.
async fn server() -> SimHandle {
    let model = ModelSpec::new("tiny").with_slots(8);
    sim_with(model.with_context_length(4096)).await
}

/// Loads `tiny` past the gateway, with this `num_ctx` or without one.
async fn load(sim: &SimHandle, num_ctx: impl Into<Value>) {
    let body = with(
        json!({"model": "tiny"}),
        json!({"options": {"num_ctx": num_ctx.into()}}),
    );
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = send(
        client
            .post(format!("{}/api/generate", sim.url()))
            .json(&body),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// A chat with this `num_ctx`, or without one if it is null.
fn chat_with(num_ctx: impl Into<Value>) -> Value {
    match num_ctx.into() {
        Value::Null => chat(),
        num_ctx => with(chat(), json!({"options": {"seed": 1, "num_ctx": num_ctx}})),
    }
}

async fn ask(gateway: &Gateway, num_ctx: impl Into<Value>) -> Answer {
    let answer = gateway.post("/api/chat", &chat_with(num_ctx)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer
}

/// Waits until the gateway has read that `tiny` has a context of this size on a server.
async fn until_listed(gateway: &Gateway, sim: &SimHandle, context: u64) {
    let name = sim.addr().to_string();
    within_limit("the size of the context on /status", async {
        loop {
            let status = gateway.admin_page("/status").await.json();
            let mut rows = status["backends"].as_array().unwrap().iter();
            let row = rows.find(|row| row["name"] == *name).unwrap();
            if row["resident"][0]["context_length"] == context {
                return;
            }
        }
    })
    .await;
}

/// The last body that a server has received on this path.
fn last_body(sim: &SimHandle, path: &str) -> Value {
    let requests = sim.requests();
    let last = requests.iter().rev().find(|seen| seen.path() == path);
    serde_json::from_slice(last.unwrap().body().unwrap()).unwrap()
}

#[tokio::test]
async fn a_request_gets_the_context_in_memory_if_that_is_large_enough() {
    let sim = server().await;
    let gateway = Gateway::start_up(&[&sim], &[]).await;
    assert_eq!(ask(&gateway, Value::Null).await.header(NUM_CTX), "");
    until_listed(&gateway, &sim, 4096).await;
    assert_eq!(ask(&gateway, 2048).await.header(NUM_CTX), "default");
    assert_eq!(
        last_body(&sim, "/api/chat"),
        with(chat(), json!({"options": {"seed": 1, "num_ctx": null}}))
    );
    assert_eq!(sim.state().loads, 1);

    assert_eq!(
        ask(&gateway, 8192).await.header(NUM_CTX),
        "",
        "it is larger"
    );
    until_listed(&gateway, &sim, 8192).await;
    assert_eq!(sim.state().loads, 2);
    assert_eq!(ask(&gateway, 2048).await.header(NUM_CTX), "8192");
    assert_eq!(ask(&gateway, Value::Null).await.header(NUM_CTX), "8192");
    assert_eq!(
        last_body(&sim, "/api/chat"),
        with(chat(), json!({"options": {"num_ctx": 8192}}))
    );
    assert_eq!(ask(&gateway, 8192).await.header(NUM_CTX), "");
    assert_eq!(sim.state().loads, 2, "no other request has loaded it again");
}

#[tokio::test]
async fn a_context_that_others_have_loaded_is_kept_too() {
    let sim = server().await;
    load(&sim, 8192).await;
    let gateway = Gateway::start_up(&[&sim], &[]).await;
    until_listed(&gateway, &sim, 8192).await;
    assert_eq!(ask(&gateway, 2048).await.header(NUM_CTX), "8192");
    assert_eq!(sim.state().loads, 1);
}

#[tokio::test]
async fn with_exact_the_server_gets_what_the_client_has_written() {
    let sim = server().await;
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_NUM_CTX", "exact")]).await;
    ask(&gateway, Value::Null).await;
    until_listed(&gateway, &sim, 4096).await;
    assert_eq!(ask(&gateway, 2048).await.header(NUM_CTX), "");
    assert_eq!(last_body(&sim, "/api/chat"), chat_with(2048));
    assert_eq!(sim.state().loads, 2);
}

#[tokio::test]
async fn a_context_above_the_maximum_is_lowered_and_the_client_is_told() {
    let sim = server().await;
    let settings = [
        ("LLAMATOWER_NUM_CTX", "exact"),
        ("LLAMATOWER_MAX_NUM_CTX", "8192"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    assert_eq!(ask(&gateway, 100_000).await.header(NUM_CTX), "8192");
    assert_eq!(last_body(&sim, "/api/chat"), chat_with(8192));
    let is_it =
        |line: &Value| line["asked"] == 100_000 && line["sent"] == 8192 && line["level"] == "INFO";
    gateway.logged("the lowered context", is_it).await;
    assert_eq!(ask(&gateway, 8192).await.header(NUM_CTX), "");
    assert_eq!(ask(&gateway, Value::Null).await.header(NUM_CTX), "");
}

#[tokio::test]
async fn a_context_size_that_no_client_can_want_is_not_sent_and_does_not_change_that_of_others() {
    let sim = server().await;
    for mode in ["keep", "exact"] {
        let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_NUM_CTX", mode)]).await;
        ask(&gateway, Value::Null).await;
        until_listed(&gateway, &sim, 4096).await;
        let loads = sim.state().loads;
        for num_ctx in [json!(0), json!(-5), json!(0.5), json!(3)] {
            assert_eq!(
                ask(&gateway, num_ctx.clone()).await.header(NUM_CTX),
                "default"
            );
            let sent = &last_body(&sim, "/api/chat")["options"]["num_ctx"];
            assert_eq!(*sent, Value::Null, "{num_ctx} {mode}");
        }
        assert_eq!(sim.state().loads, loads, "{mode}");
        for num_ctx in [json!(1e30), json!(i64::MAX), json!(u64::MAX)] {
            assert_eq!(
                ask(&gateway, num_ctx.clone()).await.header(NUM_CTX),
                "2147483647"
            );
            let sent = &last_body(&sim, "/api/chat")["options"]["num_ctx"];
            assert_eq!(*sent, i32::MAX, "{num_ctx} {mode}");
        }
        assert_eq!(sim.state().loads, loads + 1, "{mode}: none had 4 tokens");
    }
}

const OUTPUT_TOKENS: &str = "x-llamatower-max-output-tokens";

#[tokio::test]
async fn generated_tokens_have_a_maximum_in_each_dialect_and_the_client_and_the_log_are_told() {
    let sim = server().await;
    let max = [("LLAMATOWER_MAX_OUTPUT_TOKENS", "5")];
    let gateway = Gateway::start_up(&[&sim], &max).await;
    let prompt = json!({"model": "tiny", "prompt": "hi", "stream": false});
    let input = json!({"model": "tiny", "input": "hi"});
    for (path, body, pointer) in [
        ("/api/chat", chat(), "/options/num_predict"),
        ("/api/generate", prompt.clone(), "/options/num_predict"),
        ("/v1/chat/completions", chat(), "/max_tokens"),
        ("/v1/completions", prompt, "/max_tokens"),
        ("/v1/responses", input, "/max_output_tokens"),
        (
            "/v1/messages",
            with(chat(), json!({"max_tokens": 900})),
            "/max_tokens",
        ),
        ("/v1/messages", chat(), "/max_tokens"),
    ] {
        let answer = gateway.post(path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert_eq!(answer.header(OUTPUT_TOKENS), "5", "{path}");
        let received = last_body(&sim, path);
        assert_eq!(received.pointer(pointer), Some(&json!(5)), "{path}");
        let is_it = |line: &Value| line["max_output_tokens"] == 5 && line["path"] == Value::Null;
        gateway.logged("the access log's line", is_it).await;
    }
    let small = with(chat(), json!({"options": {"num_predict": 3}}));
    let answer = gateway.post("/api/chat", &small).await;
    assert_eq!(answer.header(OUTPUT_TOKENS), "");
    assert_eq!(last_body(&sim, "/api/chat"), small);

    let small = with(chat(), json!({"max_completion_tokens": 3}));
    let answer = gateway.post("/v1/chat/completions", &small).await;
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
    let received = last_body(&sim, "/v1/chat/completions");
    assert_eq!(
        received,
        with(small, json!({"max_tokens": 3})),
        "Ollama reads this one"
    );
}

#[tokio::test]
async fn generated_tokens_have_no_maximum_unless_it_is_set() {
    let sim = server().await;
    let gateway = Gateway::start_up(&[&sim], &[]).await;
    let limits = json!({"max_completion_tokens": 3, "max_tokens": 100_000});
    for body in [chat(), with(chat(), limits)] {
        let answer = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!((answer.status, answer.header(OUTPUT_TOKENS)), (200, ""));
        assert_eq!(last_body(&sim, "/v1/chat/completions"), body);
    }
}

#[tokio::test]
async fn an_openai_compatible_server_gets_the_maximum_of_generated_tokens_too() {
    let sim = server().await;
    let max = [("LLAMATOWER_MAX_OUTPUT_TOKENS", "5")];
    let gateway = super::openai::gateway(&[super::openai::openai(&sim)], &max).await;
    for (path, body) in [
        ("/api/chat", chat()),
        (
            "/v1/chat/completions",
            with(chat(), json!({"max_tokens": -1})),
        ),
    ] {
        let answer = gateway.post(path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.header(OUTPUT_TOKENS), "5");
        assert_eq!(last_body(&sim, "/v1/chat/completions")["max_tokens"], 5);
    }
    let body = with(chat(), json!({"max_completion_tokens": 900}));
    gateway.post("/v1/chat/completions", &body).await;
    let sent = with(chat(), json!({"max_completion_tokens": 5}));
    assert_eq!(
        last_body(&sim, "/v1/chat/completions"),
        sent,
        "and not both"
    );
}

/// A chat whose response has begun, and is not complete before the connection is dropped.
async fn begin_stream(gateway: &Gateway, body: &Value) -> (Connection, String) {
    let mut connection = gateway.connect().await;
    connection.post("/api/chat", body).await;
    let head = connection.head().await;
    assert_eq!(head.status, 200);
    let backend = head.get(BACKEND).to_owned();
    (connection, backend)
}

#[tokio::test]
async fn a_larger_context_is_loaded_where_no_request_waits_for_it() {
    let model = ModelSpec::new("tiny")
        .with_slots(8)
        .with_context_length(4096)
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(1000);
    let sims = [sim_with(model.clone()).await, sim_with(model).await];
    for sim in &sims {
        load(sim, Value::Null).await;
    }
    let gateway = Gateway::start_up(&[&sims[0], &sims[1]], &[]).await;
    for sim in &sims {
        until_listed(&gateway, sim, 4096).await;
    }
    let (_one, first) = begin_stream(&gateway, &chat()).await;
    let (other, second) = begin_stream(&gateway, &chat()).await;
    assert_ne!(first, second);
    drop(other);
    let idle = sims.iter().find(|sim| sim.addr().to_string() == second);
    let idle = idle.unwrap();
    within_limit("an idle server", async {
        while idle.state().generating > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (_larger, backend) = begin_stream(&gateway, &chat_with(8192)).await;
    assert_eq!(backend, second);
    until_listed(&gateway, idle, 8192).await;
}

#[tokio::test]
async fn each_attempt_gets_the_context_of_its_own_server() {
    let sims = [server().await, server().await];
    let gateway = Gateway::start_up(&[&sims[0], &sims[1]], &[]).await;
    // Both have it in memory, one with a larger context.
    load(&sims[0], 8192).await;
    load(&sims[1], Value::Null).await;
    until_listed(&gateway, &sims[0], 8192).await;
    until_listed(&gateway, &sims[1], 4096).await;
    for sim in &sims {
        let (status, body) = (503, r#"{"error":"busy"}"#.to_owned());
        sim.arm(
            Fault::new(FaultKind::Status { status, body })
                .for_path("/api/chat")
                .times(1),
        );
    }
    let refused = gateway.post("/api/chat", &chat_with(2048)).await;
    assert_eq!(refused.status, 503, "by both");
    let sent = |sim| last_body(sim, "/api/chat")["options"]["num_ctx"].clone();
    assert_eq!(sent(&sims[0]), 8192);
    assert_eq!(sent(&sims[1]), 4096);
}

#[tokio::test]
async fn a_dialect_without_num_ctx_goes_where_the_context_is_the_default() {
    let sims = [server().await, server().await];
    let gateway = Gateway::start_up(&[&sims[0], &sims[1]], &[]).await;
    let home = ask(&gateway, Value::Null).await.header(BACKEND).to_owned();
    let is_home = |sim: &&SimHandle| sim.addr().to_string() == home;
    let default = sims.iter().find(is_home).unwrap();
    let other = sims.iter().find(|sim| !is_home(sim)).unwrap();
    load(other, 8192).await;
    until_listed(&gateway, default, 4096).await;
    until_listed(&gateway, other, 8192).await;
    // The gateway learns the other server's `num_ctx` with its own request.
    while ask(&gateway, 8192).await.header(BACKEND) == home {}
    until_listed(&gateway, default, 4096).await;
    for _ in 0..4 {
        let answer = gateway.post("/v1/chat/completions", &chat()).await;
        assert_eq!(answer.header(BACKEND), home, "{}", answer.text);
    }
    assert_eq!((default.state().loads, other.state().loads), (1, 1));
}

const KEYS: [(&str, &str); 2] = [ADA, ADMIN_BEN];

#[tokio::test]
async fn keep_alive_is_limited_for_clients_with_a_key_that_is_no_administrators() {
    let sim = server().await;
    let gateway = Gateway::start_up(&[&sim], &KEYS).await;
    for (key, keep_alive, sent) in [
        ("ada-secret", json!(-1), json!(1800)),
        ("ada-secret", json!("24h"), json!(1800)),
        ("ada-secret", json!("1m"), json!(300)),
        ("ada-secret", json!("10m"), json!("10m")),
        ("ada-secret", Value::Null, Value::Null),
        ("ben-secret", json!(-1), json!(-1)),
        ("ben-secret", json!("1m"), json!("1m")),
    ] {
        let body = with(chat(), json!({"keep_alive": keep_alive}));
        let request = gateway.post_request("/api/chat", &body).bearer_auth(key);
        let answer = send(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let received = last_body(&sim, "/api/chat");
        assert_eq!(received, with(chat(), json!({"keep_alive": sent})), "{key}");
    }
}

#[tokio::test]
async fn an_unreadable_keep_alive_is_refused_as_such_unless_the_client_may_unload() {
    let sim = server().await;
    let gateway = Gateway::start_up(&[&sim], &KEYS).await;
    let unreadable = [
        json!("10x"),
        json!("300"),
        json!("10M"),
        json!(" 10m"),
        json!("9999999h"),
        json!(""),
        json!(true),
        json!(1e300),
    ];
    for keep_alive in unreadable {
        let body = with(chat(), json!({"keep_alive": keep_alive}));
        let request = gateway.post_request("/api/chat", &body);
        let answer = send(request.bearer_auth("ada-secret")).await;
        assert_eq!(answer.status, 400, "{keep_alive}: {}", answer.text);
        let begin = r#"{"error":"time: invalid duration in keep_alive; "#;
        assert!(
            answer.text.starts_with(begin),
            "{keep_alive}: {}",
            answer.text
        );
    }
    let asked = sim.requests();
    assert!(asked.iter().all(|seen| seen.path() != "/api/chat"));
    let body = with(chat(), json!({"keep_alive": "1s"}));
    let request = gateway.post_request("/api/chat", &body);
    let short = send(request.bearer_auth("ada-secret")).await;
    assert_eq!(short.status, 403, "{}", short.text);
    let body = with(chat(), json!({"keep_alive": "10x"}));
    let request = gateway.post_request("/api/chat", &body);
    let passed_on = send(request.bearer_auth("ben-secret")).await;
    assert_eq!(
        passed_on.text,
        r#"{"error":"time: unknown unit \"x\" in duration \"10x\""}"#
    );
}

#[tokio::test]
async fn keep_alive_is_not_limited_without_keys_or_if_the_limits_are_off() {
    let sim = server().await;
    let off = [
        ("LLAMATOWER_MIN_KEEP_ALIVE", "off"),
        ("LLAMATOWER_MAX_KEEP_ALIVE", "off"),
    ];
    let with_keys: Vec<_> = KEYS.into_iter().chain(off).collect();
    for settings in [&[][..], &with_keys] {
        let gateway = Gateway::start_up(&[&sim], settings).await;
        for keep_alive in [json!(-1), json!("1m")] {
            let body = with(chat(), json!({"keep_alive": keep_alive}));
            let request = gateway.post_request("/api/chat", &body);
            assert_eq!(send(request.bearer_auth("ada-secret")).await.status, 200);
            assert_eq!(last_body(&sim, "/api/chat"), body);
        }
    }
}
