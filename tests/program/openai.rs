//! OpenAI-compatible servers as backends.

use llamatower_sim::{Cut, Ending, Fault, FaultKind, ModelSpec, SimHandle};
use serde_json::{Value, json};

use crate::harness::{Gateway, chat, long_stream, sim_with, tiny, with, within_limit};

/// The address of a simulated server, of which only the routes below `/v1` are used.
pub(crate) fn openai(sim: &SimHandle) -> String {
    format!("openai+{}/v1", sim.url())
}

/// A gateway in front of these servers that knows the models of all of them.
pub(crate) async fn gateway(urls: &[String], settings: &[(&str, &str)]) -> Gateway {
    let urls_text = urls.join(",");
    let mut all = vec![("OLLAMA_URL", &*urls_text)];
    all.extend(settings);
    let gateway = Gateway::start(&[], &all).await;
    for url in urls {
        let address = url.rsplit("//").next().unwrap().trim_end_matches("/v1");
        gateway.until_backend_up(address).await;
    }
    gateway
}

/// The paths of the requests that a server has received.
pub(crate) fn paths(sim: &SimHandle) -> Vec<String> {
    let requests = sim.requests();
    requests.iter().map(|seen| seen.path().to_owned()).collect()
}

/// Whether it is a page beside `/v1` that probes ask for.
fn is_of_probe(path: &str) -> bool {
    ["/health", "/metrics"].contains(&path)
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn native_requests_are_answered_from_its_v1_routes_alone() {
    let sim = tiny().await;
    let gateway = gateway(&[openai(&sim)], &[]).await;
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let chatted = lines(&answer.text);
    let last = chatted.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"]),
        (&json!(true), &json!("stop"))
    );
    assert!(last["eval_count"].as_u64() > Some(0) && last["eval_duration"].as_u64() > Some(0));
    let prompt =
        json!({"model": "tiny", "prompt": "hi", "stream": false, "options": {"num_predict": 3}});
    let generated = gateway.post("/api/generate", &prompt).await.json();
    assert_eq!(
        (&generated["eval_count"], &generated["done_reason"]),
        (&json!(3), &json!("length"))
    );
    let embedded = gateway
        .post("/api/embed", &json!({"model": "tiny", "input": ["a", "b"]}))
        .await;
    assert_eq!(embedded.json()["embeddings"].as_array().unwrap().len(), 2);
    let tags = gateway
        .get("/api/tags")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(tags.contains("\"tiny:latest\""), "{tags}");
    let shown = gateway.post("/api/show", &json!({"model": "tiny"})).await;
    assert_eq!(shown.status, 200);
    let version = gateway.get("/api/version").send().await.unwrap();
    assert_eq!(version.status(), 200);
    let used = paths(&sim);
    assert!(
        used.iter()
            .all(|path| path.starts_with("/v1/") || is_of_probe(path)),
        "{used:?}"
    );
}

#[tokio::test]
async fn v1_requests_pass_byte_for_byte_with_the_servers_own_key() {
    let sim = tiny().await;
    let token = format!("{}=secret-of-the-server", sim.addr());
    let gateway = gateway(&[openai(&sim)], &[("LLAMATOWER_BACKEND_TOKENS", &token)]).await;
    let body = r#"{ "model":"tiny", "messages":[{"role":"user","content":"hi"}], "unknown": {"x":[1.50]}, "stream":true }"#;
    let request = reqwest::Client::new().post(gateway.url("/v1/chat/completions"));
    let request = request
        .header("authorization", "Bearer of-the-client")
        .body(body);
    let answer = within_limit("an answer", request.send()).await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let requests = sim.requests();
    let seen = requests
        .iter()
        .find(|seen| seen.path() == "/v1/chat/completions");
    let seen = seen.unwrap();
    assert_eq!(seen.body().unwrap(), body);
    let all_have_the_key = requests
        .iter()
        .all(|seen| seen.headers()["authorization"] == "Bearer secret-of-the-server");
    assert!(all_have_the_key, "its probes too");
}

#[tokio::test]
async fn it_shares_a_fleet_with_an_ollama() {
    let ollama = tiny().await;
    let other = sim_with(ModelSpec::new("mini").with_slots(4)).await;
    let urls = [openai(&other), ollama.url()];
    let gateway = gateway(&urls, &[]).await;
    let backend_of = async |model: &str| {
        let answer = gateway
            .post("/api/chat", &with(chat(), json!({"model": model})))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.header("x-llamatower-backend").to_owned()
    };
    assert_eq!(backend_of("tiny").await, ollama.addr().to_string());
    assert_eq!(backend_of("mini").await, other.addr().to_string());
    let tags = gateway
        .get("/api/tags")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(tags.contains("\"tiny:latest\"") && tags.contains("\"mini:latest\""));
    let version: Value = gateway
        .get("/api/version")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let own = reqwest::get(format!("{}/api/version", ollama.url()))
        .await
        .unwrap();
    assert_eq!(
        version,
        own.json::<Value>().await.unwrap(),
        "that of the Ollama"
    );
}

#[tokio::test]
async fn what_it_cannot_express_goes_to_an_ollama_with_the_model_or_is_refused_by_name() {
    let other = tiny().await;
    let request = with(chat(), json!({"options": {"mirostat": 2}}));
    let alone = gateway(&[openai(&other)], &[]).await;
    let refused = alone.post("/api/chat", &request).await;
    assert_eq!(refused.status, 400);
    let text = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(
        text.contains("mirostat") && text.contains(&other.addr().to_string()),
        "{text}"
    );
    let ollama = tiny().await;
    let both = gateway(&[openai(&other), ollama.url()], &[]).await;
    for _ in 0..4 {
        let answer = both.post("/api/chat", &request).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(
            answer.header("x-llamatower-backend"),
            ollama.addr().to_string()
        );
    }
}

#[tokio::test]
async fn an_answer_that_ends_early_is_visible_and_never_done() {
    let lost = [
        FaultKind::EngineDies { after_lines: 3 },
        FaultKind::Truncate { after_lines: 3 },
        FaultKind::die_after(3, Ending::Fin),
        FaultKind::Die {
            after_lines: 3,
            ending: Ending::Reset,
            cut: Cut::InsideLine,
        },
    ];
    for fault in lost {
        let sim = tiny().await;
        let gateway = gateway(&[openai(&sim)], &[]).await;
        sim.arm(Fault::new(fault.clone()).for_path("/v1/chat/completions"));
        let mut answer = gateway
            .post_request("/api/chat", &chat())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let mut text = Vec::new();
        while let Ok(Some(chunk)) = within_limit("a chunk", answer.chunk()).await {
            text.extend_from_slice(&chunk);
        }
        let read = lines(std::str::from_utf8(&text).unwrap());
        assert!(
            read.iter().all(|line| line["done"] != true),
            "{fault:?}: {read:?}"
        );
        assert!(
            read.last().unwrap()["error"].is_string(),
            "{fault:?}: {read:?}"
        );
        assert!(read.len() > 1);
    }
}

#[tokio::test]
async fn a_route_that_it_lacks_is_a_501_in_the_dialect_of_the_route() {
    let sim = tiny().await;
    let (status, body) = (404, r#"{"detail":"Not Found"}"#.to_owned());
    for path in ["/v1/messages", "/v1/responses"] {
        let body = body.clone();
        sim.arm(Fault::new(FaultKind::Status { status, body }).for_path(path));
    }
    let gateway = gateway(&[openai(&sim)], &[]).await;
    let request =
        json!({"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    let refused = gateway.post("/v1/messages", &request).await;
    assert_eq!(refused.status, 501);
    assert_eq!(refused.json()["type"], "error");
    let text = refused.json()["error"]["message"].to_string();
    assert!(text.contains("/v1/messages"), "{text}");
    let refused = gateway
        .post("/v1/responses", &json!({"model": "tiny", "input": "hi"}))
        .await;
    assert_eq!(refused.status, 501);
    assert!(
        refused.json()["error"]["message"].is_string(),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn models_are_managed_on_an_ollama_and_never_there() {
    let (ollama, other) = (tiny().await, tiny().await);
    let generated = crate::harness::run(&["keygen", "ada"], &[]).await.stdout;
    let word = |start: &str| {
        let mut words = generated.split_whitespace();
        words
            .find(|word| word.starts_with(start))
            .unwrap()
            .to_owned()
    };
    let (key, digest) = (word("llt_"), word("ada="));
    let keys = ("LLAMATOWER_ADMIN_KEYS", &*digest);
    let manage = async |gateway: &Gateway| {
        let body = json!({"source": "tiny", "destination": "copied"});
        let request = gateway.post_request("/api/copy", &body).bearer_auth(&key);
        let answer = within_limit("an answer", request.send()).await.unwrap();
        answer.status().as_u16()
    };
    let both = gateway(&[openai(&other), ollama.url()], &[keys]).await;
    assert_eq!(manage(&both).await, 200);
    assert!(paths(&ollama).contains(&"/api/copy".to_owned()));
    let alone = gateway(&[openai(&other)], &[keys]).await;
    assert_eq!(manage(&alone).await, 501);
    assert!(!paths(&other).iter().any(|path| path.starts_with("/api")));
    let address = other.addr().to_string();
    let settings = [
        ("OLLAMA_URL", &*openai(&other)),
        ("LLAMATOWER_MANAGEMENT_BACKEND", &*address),
        keys,
    ];
    let checked = crate::harness::run(&["check"], &settings).await;
    assert_eq!(checked.code, Some(2));
    assert!(
        checked.stderr.contains("LLAMATOWER_MANAGEMENT_BACKEND"),
        "{}",
        checked.stderr
    );
}

#[tokio::test]
async fn a_health_page_with_a_servers_error_takes_it_out_of_service() {
    let (sick, well) = (tiny().await, tiny().await);
    let gateway = gateway(
        &[openai(&sick), openai(&well)],
        &[("LLAMATOWER_PROBE_INTERVAL", "50ms")],
    )
    .await;
    let body = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    let status = FaultKind::Status {
        status: 503,
        body: body.to_owned(),
    };
    sick.arm(Fault::new(status).for_path("/health"));
    let failed = |line: &Value| line["message"] == "the probe failed";
    let line = gateway.logged("the probe failed", failed).await;
    assert!(
        line["error"].as_str().unwrap().contains("Loading model"),
        "{line}"
    );
    let is_down = |line: &Value| line["message"] == "the backend is down";
    gateway.logged("the backend is down", is_down).await;
    for _ in 0..3 {
        let answer = gateway.post("/api/chat", &chat()).await;
        assert_eq!(
            answer.header("x-llamatower-backend"),
            well.addr().to_string()
        );
    }
}

#[tokio::test]
async fn a_model_that_it_has_not_is_not_found_and_it_is_not_asked() {
    let sim = tiny().await;
    let gateway = gateway(&[openai(&sim)], &[]).await;
    for (path, error) in [
        ("/api/chat", json!("model 'other' not found")),
        (
            "/v1/chat/completions",
            json!({"message": "model 'other' not found", "type": "not_found_error", "param": null, "code": null}),
        ),
    ] {
        let answer = gateway
            .post(path, &with(chat(), json!({"model": "other"})))
            .await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.json()["error"], error);
    }
    let embed = json!({"model": "other", "input": "hi"});
    let answer = gateway.post("/api/embed", &embed).await;
    let text = r#"model "other" not found, try pulling it first"#;
    assert_eq!(answer.json()["error"], text);
    let used = paths(&sim);
    assert!(
        used.iter()
            .all(|path| path == "/v1/models" || is_of_probe(path)),
        "{used:?}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_request_there() {
    for stream in [true, false] {
        let sim = long_stream().await;
        let gateway = gateway(&[openai(&sim)], &[]).await;
        let request = gateway.post_request("/api/chat", &with(chat(), json!({"stream": stream})));
        let client = tokio::spawn(request.send());
        let generates = sim.wait_for(|state| state.generating == 1);
        within_limit("a request there", generates).await;
        if stream {
            let answer = within_limit("an answer", client).await.unwrap().unwrap();
            assert_eq!(answer.status(), 200);
            drop(answer);
        } else {
            client.abort();
        }
        let is_cancelled = sim.wait_for(|state| state.cancelled == 1);
        within_limit("the end of the request there", is_cancelled).await;
    }
}

#[tokio::test]
async fn no_request_loads_a_model_there_whatever_its_context() {
    let sim = tiny().await;
    let gateway = gateway(&[openai(&sim)], &[]).await;
    for num_ctx in [2048, 65_536, 512] {
        let request = with(chat(), json!({"options": {"num_ctx": num_ctx}}));
        let answer = gateway.post("/api/chat", &request).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-llamatower-num-ctx"), "");
    }
    let loads = gateway.metric("llamatower_model_loads_total").await;
    assert_eq!(loads, 0.0);
    let status = gateway.admin_page("/status").await.json();
    let backend = &status["backends"][0];
    assert_eq!(backend["models"][0]["residency"], "resident");
    assert_eq!(backend["resident"][0]["model"], "tiny:latest");
}

#[tokio::test]
async fn a_server_is_not_probed_while_a_stream_from_it_is_in_progress() {
    let sim = long_stream().await;
    let interval = [("LLAMATOWER_PROBE_INTERVAL", "50ms")];
    let gateway = gateway(&[openai(&sim)], &interval).await;
    let probes = || {
        paths(&sim)
            .iter()
            .filter(|path| *path == "/v1/models")
            .count()
    };
    let more_probes_than = async |before: usize| {
        while probes() <= before {
            tokio::task::yield_now().await;
        }
    };
    for path in ["/api/chat", "/v1/chat/completions"] {
        let stream = with(
            chat(),
            json!({"stream": true, "options": {"num_predict": 1000}}),
        );
        let mut running = gateway.post_request(path, &stream).send().await.unwrap();
        assert!(running.chunk().await.unwrap().is_some());
        // A probe may have begun before the first part.
        assert!(running.chunk().await.unwrap().is_some());
        let before = probes();
        // A part each 20 ms: ten intervals of probes.
        for _ in 0..25 {
            assert!(running.chunk().await.unwrap().is_some());
        }
        assert!(
            probes() <= before + 1,
            "{path}: {} probes",
            probes() - before
        );
        drop(running);
        within_limit("a probe after the stream", more_probes_than(probes())).await;
    }
}

#[tokio::test]
async fn what_a_model_writes_is_not_blamed_on_its_server_and_not_generated_a_second_time() {
    let no_object = json!({"choices": [{
        "message": {"tool_calls": [{"function": {"name": "f", "arguments": "[1"}}]},
        "finish_reason": "tool_calls",
    }]});
    let no_object = FaultKind::Status {
        status: 200,
        body: no_object.to_string(),
    };
    let too_large = FaultKind::HugeLine { bytes: 65 << 20 };
    for (kind, reason) in [(no_object, "not a JSON object"), (too_large, "64 MiB")] {
        let servers = [tiny().await, tiny().await];
        let gateway = gateway(&servers.each_ref().map(openai), &[]).await;
        for server in &servers {
            server.arm(Fault::new(kind.clone()).for_path("/v1/chat/completions"));
        }
        let whole = with(chat(), json!({"stream": false}));
        let answer = gateway.post("/api/chat", &whole).await;
        assert_eq!(answer.status, 502, "{}", answer.text);
        assert!(answer.text.contains(reason), "{}", answer.text);
        let asked = servers.iter().flat_map(paths);
        let asked = asked.filter(|path| path == "/v1/chat/completions");
        assert_eq!(asked.count(), 1, "{reason}");
        let status = gateway.admin_page("/status").await.json();
        for row in status["backends"].as_array().unwrap() {
            assert_eq!(row["avoided"], json!([]), "{reason}");
        }
    }
}
