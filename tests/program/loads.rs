//! Loads of models: how long a request waits for one, and loads that no client has asked for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};
use serde_json::{Value, json};

use crate::harness::{Gateway, chat, load, run, send, sim_with, with, within_limit};

/// A model that takes this long to load.
fn slow_to_load(milliseconds: u64) -> ModelSpec {
    let model = ModelSpec::new("tiny").with_slots(8);
    model.with_load_time(Duration::from_millis(milliseconds))
}

#[tokio::test]
async fn a_request_that_loads_its_model_has_more_time_than_one_whose_server_hangs() {
    let sim = sim_with(slow_to_load(1000)).await;
    let settings = [
        ("LLAMATOWER_FIRST_BYTE_TIMEOUT", "300ms"),
        ("LLAMATOWER_RETRY_ATTEMPTS", "1"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let cold = gateway.post("/api/chat", &chat()).await;
    assert_eq!((cold.status, sim.state().loads), (200, 1), "{}", cold.text);

    sim.arm(Fault::new(FaultKind::Hang).for_path("/api/chat"));
    let sent = Instant::now();
    let warm = gateway.post("/api/chat", &chat()).await;
    assert_eq!(warm.status, 504, "{}", warm.text);
    let limit = "within 300ms (limit: LLAMATOWER_FIRST_BYTE_TIMEOUT)";
    assert!(warm.text.contains(limit), "{}", warm.text);
    let waited = sent.elapsed();
    assert!(waited < Duration::from_secs(20), "{waited:?}");
}

#[tokio::test]
async fn the_access_log_has_the_time_that_the_server_has_loaded_the_model_for() {
    let sim = sim_with(slow_to_load(300)).await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    for least_seconds in [0.3, 0.0] {
        let chat = gateway.post("/api/chat", &chat()).await;
        assert_eq!(chat.status, 200, "{}", chat.text);
        let id = chat.header("x-request-id").to_owned();
        let line = gateway
            .logged("the end of the chat", |line| line["request_id"] == *id)
            .await;
        let load = line["load"].as_f64().expect("Ollama counts loads");
        let expected = least_seconds..least_seconds + 0.25;
        assert!(expected.contains(&load), "{line}");
    }
}

#[tokio::test]
async fn a_load_that_takes_too_long_is_cut_off_by_its_own_setting() {
    let sim = sim_with(slow_to_load(30_000)).await;
    let settings = [
        ("LLAMATOWER_LOAD_TIMEOUT", "200ms"),
        ("LLAMATOWER_RETRY_ATTEMPTS", "1"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let cold = gateway.post("/api/chat", &chat()).await;
    assert_eq!(cold.status, 504, "{}", cold.text);
    let limit = "within 200ms (limit: LLAMATOWER_LOAD_TIMEOUT)";
    assert!(cold.text.contains(limit), "{}", cold.text);
}

#[tokio::test]
async fn requests_that_wait_for_a_load_are_sent_once_it_is_complete() {
    let model = slow_to_load(1000).with_reply_tokens(1000);
    let sim = sim_with(model.with_pace(Duration::from_millis(20))).await;
    let settings = [
        ("LLAMATOWER_SLOTS", "4"),
        ("LLAMATOWER_PROBE_INTERVAL", "1h"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    within_limit("a list of the models in memory", async {
        let is_known = |status: Value| status["backends"][0]["resident"].is_array();
        while !is_known(gateway.admin_page("/status").await.json()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Its first byte comes after its last token, in 20 s.
    let whole = with(chat(), json!({"stream": false}));
    let loading = tokio::spawn(send(gateway.post_request("/api/chat", &whole)));
    let begun = sim.wait_for(|state| state.loads == 1);
    within_limit("the load", begun).await;
    let mut waiting = gateway.connect().await;
    waiting.post("/api/chat", &chat()).await;
    assert_eq!(waiting.head().await.status, 200);
    assert!(!loading.is_finished());
}

#[tokio::test]
async fn before_its_first_response_ends_a_model_is_loaded_on_a_second_server_for_those_that_wait() {
    // A response takes 200 s.
    let endless = || {
        let model = ModelSpec::new("tiny").with_reply_tokens(10_000);
        sim_with(model.with_pace(Duration::from_millis(20)))
    };
    let (one, two) = (endless().await, endless().await);
    let settings = [("LLAMATOWER_SLOTS", "1"), FAST_PROBES];
    let gateway = Gateway::start_up(&[&one, &two], &settings).await;
    let mut first = gateway.connect().await;
    first.post("/api/chat", &chat()).await;
    assert_eq!(first.head().await.status, 200);
    let mut second = gateway.connect().await;
    second.post("/api/chat", &chat()).await;
    assert_eq!(second.head().await.status, 200);
    assert_eq!((one.state().loads, two.state().loads), (1, 1));
}

/// A server of these models with room for so many, at an address that may have been used before.
async fn server_at(address: Option<SocketAddr>, models: &[&str], room: usize) -> SimHandle {
    let mut sim = Sim::builder().max_loaded(room);
    for model in models {
        sim = sim.model(ModelSpec::new(*model));
    }
    let Some(address) = address else {
        return sim.start().await.unwrap();
    };
    // The server that was there before may not be gone yet.
    within_limit("a free address", async {
        loop {
            match sim.clone().listen(address).start().await {
                Ok(sim) => return sim,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await
}

async fn server(models: &[&str], room: usize) -> SimHandle {
    server_at(None, models, room).await
}

/// Waits until a server has exactly these models in memory, and has begun so many loads.
async fn until_resident(sim: &SimHandle, models: &[&str], loads: u64) {
    let names: Vec<_> = models.iter().map(|name| format!("{name}:latest")).collect();
    let reached = sim.wait_for(|state| state.resident == names && state.loads == loads);
    let what = format!("{names:?} in memory after {loads} loads");
    within_limit(&what, reached).await;
}

/// Waits until `/status` has these states of the preloads of the only server.
async fn until_status(gateway: &Gateway, expected: &Value) -> Value {
    within_limit("the states on /status", async {
        loop {
            let status = gateway.admin_page("/status").await.json();
            let rows = status["backends"][0]["preloads"].clone();
            let states: Value = rows
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["state"].clone())
                .collect();
            if states == *expected {
                return rows;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// The JSON bodies that a server has received on a path.
fn bodies(sim: &SimHandle, path: &str) -> Vec<Value> {
    let requests = sim.requests().into_iter();
    let requests = requests.filter(|seen| seen.path() == path);
    requests
        .map(|seen| serde_json::from_slice(seen.body().unwrap()).unwrap())
        .collect()
}

fn chat_with(model: &str) -> Value {
    with(chat(), json!({"model": model}))
}

const FAST_PROBES: (&str, &str) = ("LLAMATOWER_PROBE_INTERVAL", "100ms");

#[tokio::test]
async fn a_model_is_preloaded_before_the_first_request() {
    let sim = server(&["other", "tiny"], 3).await;
    let settings = [("LLAMATOWER_PRELOAD_MODELS", "tiny")];
    let gateway = Gateway::start(&[&sim], &settings).await;
    until_resident(&sim, &["tiny"], 1).await;
    let rows = until_status(&gateway, &json!(["loaded"])).await;
    assert_eq!(
        rows,
        json!([{"model": "tiny:latest", "pinned": false, "state": "loaded"}])
    );
    assert_eq!(
        bodies(&sim, "/api/generate"),
        [json!({"model": "tiny:latest", "stream": false})],
        "with the server's own keep_alive"
    );
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    assert_eq!(sim.state().loads, 1);
    assert_eq!(gateway.metric("llamatower_model_loads_total").await, 1.0);
}

#[tokio::test]
async fn a_model_is_preloaded_again_after_a_restart_also_one_between_two_probes() {
    let first = server(&["tiny"], 3).await;
    let address = first.addr();
    let settings = [("LLAMATOWER_PRELOAD_MODELS", "tiny"), FAST_PROBES];
    let gateway = Gateway::start(&[&first], &settings).await;
    until_resident(&first, &["tiny"], 1).await;
    until_status(&gateway, &json!(["loaded"])).await;
    first.kill();
    let second = server_at(Some(address), &["tiny"], 3).await;
    until_resident(&second, &["tiny"], 1).await;

    second.kill();
    gateway
        .logged("the end of the server", |line| {
            line["message"] == "the backend is down"
        })
        .await;
    let third = server_at(Some(address), &["tiny"], 3).await;
    until_resident(&third, &["tiny"], 1).await;
}

#[tokio::test]
async fn a_preloaded_model_that_was_unloaded_is_not_loaded_again_without_a_request() {
    let sim = server(&["tiny"], 3).await;
    let settings = [("LLAMATOWER_PRELOAD_MODELS", "tiny"), FAST_PROBES];
    let gateway = Gateway::start(&[&sim], &settings).await;
    until_status(&gateway, &json!(["loaded"])).await;
    let unload = json!({"model": "tiny", "keep_alive": 0});
    assert_eq!(gateway.post("/api/generate", &unload).await.status, 200);
    until_status(&gateway, &json!(["unloaded"])).await;
    assert_eq!(sim.state().loads, 1);
}

#[tokio::test]
async fn a_pinned_model_comes_back_when_the_server_is_idle() {
    let sim = server(&["other", "tiny"], 1).await;
    let settings = [("LLAMATOWER_PINNED_MODELS", "tiny"), FAST_PROBES];
    let gateway = Gateway::start(&[&sim], &settings).await;
    until_resident(&sim, &["tiny"], 1).await;
    until_status(&gateway, &json!(["loaded"])).await;
    assert_eq!(
        bodies(&sim, "/api/generate"),
        [json!({"model": "tiny:latest", "stream": false, "keep_alive": -1})]
    );
    let other = gateway.post("/api/chat", &chat_with("other")).await;
    assert_eq!(other.status, 200, "{}", other.text);
    until_resident(&sim, &["tiny"], 3).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    assert_eq!(sim.state().loads, 3);
}

#[tokio::test]
async fn a_request_does_not_end_the_time_of_a_pinned_model() {
    let sim = server(&["tiny"], 3).await;
    let settings = [("LLAMATOWER_PINNED_MODELS", "tiny"), FAST_PROBES];
    let gateway = Gateway::start(&[&sim], &settings).await;
    until_status(&gateway, &json!(["loaded"])).await;
    for keep_alive in [json!(0), json!("5s"), json!("soon")] {
        let body = with(chat(), json!({"keep_alive": keep_alive}));
        let answer = gateway.post("/api/chat", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let sent = bodies(&sim, "/api/chat").pop().unwrap();
        assert_eq!(sent["keep_alive"], -1);
    }
    assert_eq!(sim.state().loads, 1);
}

#[tokio::test]
async fn a_model_in_memory_for_a_time_is_pinned_there() {
    let sim = server(&["tiny"], 3).await;
    load(&sim).await;
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_PINNED_MODELS", "tiny")]).await;
    until_status(&gateway, &json!(["loaded"])).await;
    let is_pinned = |_: &_| {
        let asked = bodies(&sim, "/api/generate");
        asked.last().unwrap()["keep_alive"] == -1
    };
    within_limit("the request that pins", sim.wait_for(is_pinned)).await;
    assert_eq!(sim.state().loads, 1);
}

#[tokio::test]
async fn a_load_takes_the_place_of_a_pinned_model_only_if_no_other_server_can_do_it() {
    let pinned = server(&["other", "tiny"], 1).await;
    let free = server(&["other", "busy"], 1).await;
    let name = pinned.addr().to_string();
    let placed = format!("{name}=tiny");
    let settings = [("LLAMATOWER_PINNED_MODELS", &*placed)];
    let gateway = Gateway::start(&[&pinned, &free], &settings).await;
    until_resident(&pinned, &["tiny"], 1).await;
    until_status(&gateway, &json!(["loaded"])).await;
    // It is asked for often, so its place would cost more than that of a model that is not.
    for _ in 0..5 {
        let busy = gateway.post("/api/chat", &chat_with("busy")).await;
        assert_eq!(busy.status, 200, "{}", busy.text);
    }
    let other = gateway.post("/api/chat", &chat_with("other")).await;
    assert_eq!(
        other.header("x-llamatower-backend"),
        free.addr().to_string()
    );
    assert_eq!(pinned.state().loads, 1);
    free.kill();
    let other = gateway.post("/api/chat", &chat_with("other")).await;
    assert_eq!(
        (other.status, other.header("x-llamatower-backend")),
        (200, &*name)
    );
}

#[tokio::test]
async fn a_model_that_only_embeds_is_loaded_by_an_embedding() {
    let model = ModelSpec::new("vectors").embedding_only();
    let sim = sim_with(model).await;
    let settings = [("LLAMATOWER_PRELOAD_MODELS", "vectors")];
    let gateway = Gateway::start(&[&sim], &settings).await;
    until_resident(&sim, &["vectors"], 1).await;
    until_status(&gateway, &json!(["loaded"])).await;
    assert_eq!(bodies(&sim, "/api/generate"), [] as [Value; 0]);
}

#[tokio::test]
async fn a_failed_preload_is_told_once_with_what_to_do() {
    let sim = server(&["tiny"], 3).await;
    let failure = Fault::new(FaultKind::LoadFailure).for_path("/api/generate");
    sim.arm(failure.times(2));
    let placed = format!("{}=absent", sim.addr());
    let settings = [
        ("LLAMATOWER_PRELOAD_MODELS", "tiny"),
        ("LLAMATOWER_PINNED_MODELS", &*placed),
        FAST_PROBES,
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    for (model, part) in [("absent:latest", "pull it there"), ("tiny:latest", "500")] {
        let is_it = |line: &Value| {
            line["message"] == "the model was not preloaded" && line["model"] == model
        };
        let line = gateway.logged("a failed preload", is_it).await;
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.contains(part), "{line}");
        assert_eq!(line["backend"], sim.addr().to_string());
        let status = gateway.admin_page("/status").await.json();
        let rows = status["backends"][0]["preloads"].as_array().unwrap();
        let row = rows.iter().find(|row| row["model"] == model).unwrap();
        assert_eq!(row["state"], format!("failed: {reason}"));
    }
    let rows = || async {
        let status = gateway.admin_page("/status").await.json();
        status["backends"][0]["preloads"][1]["state"].clone()
    };
    within_limit("the load after the failure", async {
        while rows().await != "loaded" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let lines = gateway.lines_of("the model was not preloaded");
    assert_eq!(lines, 2, "each failure once");
}

#[tokio::test]
async fn no_preload_begins_while_the_gateway_drains() {
    let model = ModelSpec::new("other").with_pace(Duration::from_millis(20));
    let sim = Sim::builder()
        .model(model.with_reply_tokens(1000))
        .model(ModelSpec::new("tiny"))
        .max_loaded(1)
        .start()
        .await
        .unwrap();
    let settings = [
        ("LLAMATOWER_PINNED_MODELS", "tiny"),
        // It drains for longer than the server has to be idle before a load.
        ("LLAMATOWER_DRAIN_DELAY", "2s"),
        FAST_PROBES,
    ];
    let mut gateway = Gateway::start(&[&sim], &settings).await;
    until_status(&gateway, &json!(["loaded"])).await;
    let mut stream = gateway.connect().await;
    stream.post("/api/chat", &chat_with("other")).await;
    stream.head().await;
    until_status(&gateway, &json!(["waiting"])).await;
    gateway.send_sigterm().await;
    let is_draining = |line: &Value| line["message"] == "draining";
    gateway.logged("the drain", is_draining).await;
    // The model is out of the way now, and the server is idle.
    let url = format!("{}/api/generate", sim.url());
    let unload = json!({"model": "other", "keep_alive": 0}).to_string();
    let unload = reqwest::Client::new().post(url).body(unload).send();
    assert_eq!(unload.await.unwrap().status(), 200);
    drop(stream);
    until_resident(&sim, &[], 2).await;
    assert_eq!(gateway.ended().await, Some(0));
    assert_eq!(sim.state().loads, 2);
}

#[tokio::test]
async fn a_preload_on_a_server_that_must_not_serve_the_model_is_an_error_of_the_settings() {
    let models = ("LLAMATOWER_BACKEND_MODELS", "localhost=qwen*");
    for (setting, parts) in [
        (
            ("LLAMATOWER_PRELOAD_MODELS", "gpu-9=tiny"),
            ["LLAMATOWER_PRELOAD_MODELS", "gpu-9 is not a server"],
        ),
        (
            ("LLAMATOWER_PINNED_MODELS", "localhost=tiny"),
            ["LLAMATOWER_PINNED_MODELS", "LLAMATOWER_BACKEND_MODELS"],
        ),
        (
            ("LLAMATOWER_PRELOAD_MODELS", "tiny"),
            ["LLAMATOWER_BACKEND_MODELS", "any server"],
        ),
    ] {
        let checked = run(&["check"], &[models, setting]).await;
        assert_eq!(checked.code, Some(2), "{setting:?}: {}", checked.stderr);
        for part in parts {
            assert!(checked.stderr.contains(part), "{part}: {}", checked.stderr);
        }
    }
}

#[tokio::test]
async fn after_an_unload_the_model_is_not_shown_in_memory_before_the_next_probe() {
    let (one, other) = (
        sim_with(slow_to_load(0)).await,
        sim_with(slow_to_load(0)).await,
    );
    for sim in [&one, &other] {
        load(sim).await;
    }
    let seldom = [("LLAMATOWER_PROBE_INTERVAL", "1h")];
    let gateway = Gateway::start_up(&[&one, &other], &seldom).await;
    let until_resident = async |expected: usize| {
        within_limit("the models in memory", async {
            loop {
                let status = gateway.admin_page("/status").await.json();
                let rows = status["backends"].as_array().unwrap().iter();
                let counts: Vec<_> = rows
                    .map(|row| row["resident"].as_array().map(Vec::len))
                    .collect();
                if counts == [Some(expected); 2] {
                    return;
                }
            }
        })
        .await;
    };
    until_resident(1).await;
    // An Ollama lists the model for a while after its response: once for the unload, once after it.
    let body = send(reqwest::Client::new().get(format!("{}/api/ps", one.url())))
        .await
        .text;
    let early = FaultKind::Status { status: 200, body };
    one.arm(Fault::new(early).for_path("/api/ps").times(2));
    let unload = json!({"model": "tiny", "keep_alive": 0});
    assert_eq!(gateway.post("/api/generate", &unload).await.status, 200);
    until_resident(0).await;
}
