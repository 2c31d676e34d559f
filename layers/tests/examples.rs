//! Starts and calls each example, as a reader would.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Once;
use std::time::Duration;

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// A running example. It is killed when this is dropped.
struct Example {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program(name))
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            _child: child,
            lines,
        }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line());
        line.await
            .expect("it prints something")
            .unwrap()
            .expect("a line")
    }
}

/// The path of an example: `examples/` beside the `deps/` directory of this test. `cargo test` with
/// a test selection does not build examples, so this builds them.
fn program(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(|deps| deps.parent()).unwrap();
    BUILT.call_once(|| {
        let mut build = std::process::Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--all-features", "--examples"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.unwrap().success());
    });
    folder.join("examples").join(name)
}

#[test]
fn the_readme_has_a_command_for_each_example() {
    let crate_dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(crate_dir.join("README.md")).unwrap();
    let commands = readme.lines().filter_map(|line| {
        let command = line
            .trim_start()
            .strip_prefix("cargo run -p llamatower-layers ")?;
        let (_, name) = command.split_once(" --example ")?;
        name.split_whitespace().next().map(str::to_owned)
    });
    let files = crate_dir.join("examples").read_dir().unwrap();
    let files = files.map(|file| {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let is_code = |line: &&str| !line.is_empty() && !line.trim_start().starts_with("//");
        let lines = text.lines().filter(is_code).count();
        assert!(lines < 60, "{} has {lines} lines of code", path.display());
        path.file_stem().unwrap().to_str().unwrap().to_owned()
    });
    let (commands, files): (BTreeSet<_>, BTreeSet<_>) = (commands.collect(), files.collect());
    assert_eq!(commands, files);
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test]
async fn bare_hyper_streams_for_two_and_refuses_the_third() {
    let mut example = Example::start("bare_hyper", &["0"]);
    let url = format!("{}/api/generate", example.line().await);
    let ask = async |prompt: &str| {
        let body = serde_json::json!({"model": "parrot", "prompt": prompt}).to_string();
        client().post(&url).body(body).send().await.unwrap()
    };
    let mut short = ask("who is there").await;
    let line = short.chunk().await.unwrap().unwrap();
    assert_eq!(
        line, "{\"done\":false,\"response\":\"who \"}\n",
        "one by one"
    );
    let text = short.text().await.unwrap();
    assert!(
        text.ends_with("\"response\":\"there \"}\n{\"done\":true,\"response\":\"\"}\n"),
        "{text}"
    );

    let long = "word ".repeat(10_000);
    let _held = tokio::join!(ask(&long), ask(&long));
    let third = ask("hello").await;
    assert_eq!(third.status(), 503);
    assert!(third.text().await.unwrap().contains("\"error\""));
    let wrong = client().get(&url).send().await.unwrap();
    assert_eq!(wrong.status(), 405);
}

#[tokio::test]
async fn the_axum_router_checks_keys_and_limits_their_rates() {
    let mut example = Example::start("axum_router", &["0"]);
    let url = format!("{}/v1/chat/completions", example.line().await);
    let key = example.line().await;
    let key = key.strip_prefix("the key is ").unwrap();
    let ask = async |key: &str| {
        let request = client().post(&url).bearer_auth(key);
        let body = serde_json::json!({"model": "m"}).to_string();
        let request = request
            .header("content-type", "application/json")
            .body(body);
        request.send().await.unwrap()
    };
    let refusal = ask("wrong").await;
    assert_eq!(refusal.status(), 401);
    let text = refusal.text().await.unwrap();
    assert!(text.contains("\"message\""), "in OpenAI's dialect: {text}");
    assert_eq!(ask(key).await.status(), 200);
    assert_eq!(
        ask(key).await.headers()["ratelimit"]
            .to_str()
            .unwrap()
            .split(';')
            .nth(1),
        Some("r=0")
    );
    let refusal = ask(key).await;
    assert_eq!(refusal.status(), 429);
    assert!(refusal.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn the_tonic_service_returns_a_refusal_as_a_status() {
    let mut example = Example::start("tonic_service", &["0"]);
    let endpoint = tonic::transport::Endpoint::try_from(example.line().await).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    for _ in 0..2 {
        client.check(HealthCheckRequest::default()).await.unwrap();
    }
    let refusal = client
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
    assert!(refusal.message().contains("rate limit"), "{refusal}");
}

#[tokio::test]
async fn the_tonic_service_ends_a_silent_stream_with_a_status() {
    let mut example = Example::start("tonic_service", &["0"]);
    let endpoint = tonic::transport::Endpoint::try_from(example.line().await).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    let mut changes = watch.into_inner();
    assert!(changes.message().await.unwrap().is_some());
    let end = changes.message().await.unwrap_err();
    assert_eq!(end.code(), tonic::Code::DeadlineExceeded, "{end}");
    assert!(end.message().contains("paused"), "{end}");
}

/// A simulated Ollama with the model `tiny`, and its faults in this order.
async fn ollama(faults: impl IntoIterator<Item = FaultKind>) -> SimHandle {
    let sim = Sim::builder().model(ModelSpec::new("tiny"));
    let sim = sim.start().await.unwrap();
    for fault in faults {
        sim.arm(Fault::new(fault).times(1));
    }
    sim
}

fn dies_after_two_lines() -> FaultKind {
    FaultKind::Die {
        after_lines: 2,
        ending: Default::default(),
        cut: Default::default(),
    }
}

/// The URL of a port that refuses connections.
async fn refusing() -> String {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", closed.local_addr().unwrap())
}

async fn generate(proxy: &str) -> (u16, String) {
    let body = r#"{"model": "tiny", "prompt": "Why a tower?"}"#;
    let request = client().post(format!("{proxy}/api/generate")).body(body);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    // The text up to the end of a stream that breaks.
    let mut answer = answer;
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        text.extend_from_slice(&chunk);
    }
    (status, String::from_utf8(text).unwrap())
}

/// Calls a proxy before a server that refuses, is busy at first, closes the connection at first, and
/// dies in the middle of a stream.
async fn a_proxy_retries_and_reports(name: &str) {
    let mut proxy = Example::start(name, &["0", &refusing().await]);
    let (status, text) = generate(&proxy.line().await).await;
    assert_eq!(status, 502);
    assert!(
        text.starts_with("{\"error\":\"cannot connect to the backend: Connection refused"),
        "{text}"
    );

    let dropped = FaultKind::Drop {
        ending: Default::default(),
    };
    let sim = ollama([FaultKind::Busy, dropped, dies_after_two_lines()]).await;
    let mut proxy = Example::start(name, &["0", &sim.url()]);
    let proxy_url = proxy.line().await;
    let (status, text) = generate(&proxy_url).await;
    assert_eq!(status, 200);
    assert!(text.contains("\"response\""), "{text}");
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("{\"error\":\"the connection to the backend was lost"),
        "{text}"
    );
    assert_eq!(sim.state().requests_seen, 3, "two were sent again");
    let (status, text) = generate(&proxy_url).await;
    assert_eq!(status, 200);
    assert!(text.contains("\"done\":true"), "{text}");
}

#[tokio::test]
async fn the_axum_proxy_retries_and_reports_what_happened() {
    a_proxy_retries_and_reports("axum_proxy").await;
}

#[tokio::test]
async fn the_axum_proxy_by_reqwest_retries_and_reports_what_happened() {
    a_proxy_retries_and_reports("axum_reqwest").await;
}

#[tokio::test]
async fn the_axum_proxy_keeps_its_own_routes() {
    let sim = ollama([]).await;
    let mut proxy = Example::start("axum_proxy", &["0", &sim.url()]);
    let url = format!("{}/health", proxy.line().await);
    let answer = client().get(url).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "ok");
    assert_eq!(sim.state().requests_seen, 0);
}

#[tokio::test]
async fn the_client_round_hyper_util_retries_and_prints_the_stream() {
    let mut example = Example::start("client_hyper", &[&refusing().await, "tiny"]);
    let line = example.line().await;
    assert!(
        line.starts_with("failed: cannot connect to the backend: Connection refused"),
        "{line}"
    );
    let sim = ollama([FaultKind::Busy, dies_after_two_lines()]).await;
    let mut example = Example::start("client_hyper", &[&sim.url(), "tiny"]);
    for _ in 0..2 {
        let line = example.line().await;
        assert!(line.contains("\"response\""), "{line}");
    }
    let line = example.line().await;
    assert!(line.contains("failed: "), "{line}");
    assert_eq!(sim.state().requests_seen, 2, "one was sent twice");
}

#[tokio::test]
async fn the_client_round_reqwest_retries_and_tells_the_kind_of_an_error() {
    let mut example = Example::start("client_reqwest", &[&refusing().await, "tiny"]);
    let line = example.line().await;
    assert!(
        line.starts_with("failed: cannot connect to the backend: Connection refused"),
        "{line}"
    );
    assert!(line.ends_with("(connect_failed)"), "{line}");
    let sim = ollama([FaultKind::Busy]).await;
    let mut example = Example::start("client_reqwest", &[&sim.url(), "tiny"]);
    let line = example.line().await;
    assert!(!line.starts_with("failed"), "{line}");
    assert!(!line.trim().is_empty(), "{line}");
    assert_eq!(sim.state().requests_seen, 2, "one was sent twice");
}

#[tokio::test]
async fn a_custom_layers_error_is_sent_in_the_dialect_of_the_route() {
    let mut example = Example::start("custom_layer", &["0"]);
    let url = example.line().await;
    let ask = async |path: &str, tenant: &str| {
        let request = client()
            .get(format!("{url}{path}"))
            .header("x-tenant", tenant);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(ask("/v1/models", "ada").await.0, 200);
    let (status, text) = ask("/v1/models", "bob").await;
    assert_eq!(status, 402);
    assert!(
        text.contains("\"message\":\"this tenant has no credit left\""),
        "{text}"
    );
    let (_, text) = ask("/api/tags", "bob").await;
    assert_eq!(text, "{\"error\":\"this tenant has no credit left\"}");
}

/// A server of vLLM's shape: its paths, and its format of errors.
async fn vllm() -> String {
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use serde_json::{Value, json};

    async fn chat(Json(request): Json<Value>) -> (http::StatusCode, Json<Value>) {
        if request["model"] != "qwen" {
            let message = format!("The model `{}` does not exist.", request["model"]);
            let error = json!({
                "message": message, "type": "NotFoundError", "param": "model", "code": 404
            });
            let error = json!({"error": error});
            return (http::StatusCode::NOT_FOUND, Json(error));
        }
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": "Hello."}});
        (http::StatusCode::OK, Json(json!({"choices": [choice]})))
    }
    let models = async || Json(json!({"object": "list", "data": [{"id": "qwen"}]}));
    let ranks = async || Json(json!({"results": [{"index": 0, "relevance_score": 0.9}]}));
    let router = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/rerank", post(ranks))
        .route("/health", get(async || ""))
        .route(
            "/v1/load_lora_adapter",
            post(async || "it must not be reachable"),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn the_openai_gateway_serves_vllm_and_refuses_in_openais_format() {
    let mut example = Example::start("openai_gateway", &[&vllm().await, "0"]);
    let url = example.line().await;
    let send = async |method: http::Method, path: &str, body: &'static str| {
        let request = client().request(method, format!("{url}{path}"));
        let request = request.header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (get, post) = (http::Method::GET, http::Method::POST);
    for (method, path, body, status, text) in [
        (&get, "/v1/models", "", 200, "\"id\":\"qwen\""),
        (&get, "/health", "", 200, ""),
        (&post, "/v1/rerank", "{}", 200, "relevance_score"),
        (
            &post,
            "/v1/chat/completions",
            r#"{"model":"qwen"}"#,
            200,
            "Hello.",
        ),
        (
            &post,
            "/v1/chat/completions",
            r#"{"model":"m"}"#,
            404,
            "NotFoundError",
        ),
    ] {
        let answer = send(method.clone(), path, body).await;
        assert_eq!(answer.0, status, "{path}: {answer:?}");
        assert!(answer.1.contains(text), "{path}: {answer:?}");
    }
    for (method, path, status) in [
        (&post, "/v1/load_lora_adapter", 404),
        (&post, "/v1/assistants", 404),
        (&post, "/chat/completions", 404),
        (&post, "/v1/chat/completions/", 404),
        (&get, "/v1/chat/completions", 405),
    ] {
        let (found, text) = send(method.clone(), path, "{}").await;
        assert_eq!(found, status, "{path}: {text}");
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(error["error"]["message"].is_string(), "{path}: {text}");
        assert!(error["error"]["type"].is_string(), "{path}: {text}");
    }
}

#[tokio::test]
async fn the_openai_gateway_passes_a_stream_and_hides_ollamas_routes() {
    let sim = Sim::builder().model(ModelSpec::new("tiny"));
    let sim = sim.start().await.unwrap();
    let mut example = Example::start("openai_gateway", &[&sim.url(), "0"]);
    let url = example.line().await;
    let body = r#"{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let request = client().post(format!("{url}/v1/chat/completions"));
    let request = request.header("content-type", "application/json");
    let text = request
        .body(body)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let tags = client()
        .get(format!("{url}/api/tags"))
        .send()
        .await
        .unwrap();
    assert_eq!(tags.status(), 404);
}
