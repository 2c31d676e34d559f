//! Aliases of models: names in requests and answers, chains, weights, sets, and the models of keys.

use std::time::Duration;

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};
use serde_json::{Value, json};

use crate::harness::{Answer, Connection, Gateway, run, send, tiny, with, within_limit};

pub(crate) const ALIASES: &str = "LLAMATOWER_ALIASES";

/// A server with the models `tiny` and `small`.
pub(crate) async fn two_models() -> SimHandle {
    let models = ["tiny", "small"].map(|name| ModelSpec::new(name).with_slots(4));
    let [tiny, small] = models;
    Sim::builder()
        .model(tiny)
        .model(small)
        .start()
        .await
        .unwrap()
}

pub(crate) fn chat_with(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

/// The model of the last request with a body that the server got.
fn last_model(sim: &SimHandle) -> String {
    let requests = sim.requests();
    let mut posts = requests.iter().filter(|request| request.method() == "POST");
    posts.next_back().unwrap().model().unwrap().to_owned()
}

/// All values of `model` in a text of JSON objects, whatever is around them.
fn models_in(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches("data: "));
    let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let models = lines.flat_map(|line| {
        let places = ["/model", "/message/model", "/response/model"];
        let models = places.map(|place| line.pointer(place).cloned());
        models.into_iter().flatten().collect::<Vec<_>>()
    });
    models
        .map(|model| model.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn an_answer_names_what_the_client_asked_for_in_every_dialect() {
    let sim = two_models().await;
    let gateway = Gateway::start_up(&[&sim], &[(ALIASES, "gpt-4o-mini=tiny")]).await;
    let input = json!({"input": "hi"});
    for (path, body) in [
        ("/api/chat", json!({})),
        ("/api/chat", json!({"stream": false})),
        ("/api/chat", json!({"messages": []})),
        ("/api/generate", json!({"prompt": "hi"})),
        ("/api/generate", json!({"prompt": "hi", "stream": false})),
        ("/v1/chat/completions", json!({})),
        ("/v1/chat/completions", json!({"stream": true})),
        ("/v1/completions", json!({"prompt": "hi"})),
        ("/v1/completions", json!({"prompt": "hi", "stream": true})),
        ("/v1/messages", json!({"max_tokens": 9})),
        ("/v1/messages", json!({"max_tokens": 9, "stream": true})),
        ("/v1/responses", input.clone()),
        (
            "/v1/responses",
            with(input.clone(), json!({"stream": true})),
        ),
        ("/api/embed", input.clone()),
        ("/v1/embeddings", input),
    ] {
        for asked in ["gpt-4o-mini", "GPT-4o-mini:latest"] {
            let body = with(chat_with(asked), body.clone());
            let answer = gateway.post(path, &body).await;
            assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text);
            assert_eq!(answer.header("x-llamatower-model"), "tiny");
            assert_eq!(last_model(&sim), "tiny");
            let models = models_in(&answer.text);
            assert!(!models.is_empty(), "{path}: {}", answer.text);
            assert!(
                models.iter().all(|model| model == asked),
                "{path}: {}",
                answer.text
            );
            assert!(!answer.text.contains("\"tiny\""), "{path}: {}", answer.text);
            // The bytes are those for the model, but for its name.
            let direct = gateway
                .post(path, &with(body.clone(), json!({"model": "tiny"})))
                .await;
            assert_eq!(models_in(&direct.text).len(), models.len(), "{path}");
            assert_eq!(direct.header("x-llamatower-model"), "");
            let has_length = |answer: &Answer| answer.headers.contains_key("content-length");
            assert_eq!(has_length(&answer), has_length(&direct), "{path}");
        }
    }
    let id = gateway.post("/api/chat", &chat_with("gpt-4o-mini")).await;
    let id = id.header("x-request-id").to_owned();
    let line = gateway
        .logged("the end of a request", |line| line["request_id"] == *id)
        .await;
    assert_eq!(
        (&line["model"], &line["served_model"]),
        (&json!("gpt-4o-mini"), &json!("tiny"))
    );
    let page = gateway.admin_page("/metrics").await.text;
    assert!(page.contains("gen_ai_request_model=\"tiny\""), "{page}");
    // The queue has a row for other models from the start.
    let mut of_requests = page.lines().filter(|line| line.starts_with("gen_ai_"));
    assert!(
        !of_requests.any(|line| line.contains("\"other\"")),
        "{page}"
    );
}

#[tokio::test]
async fn a_stream_arrives_line_by_line() {
    let model = ModelSpec::new("tiny")
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(1000);
    let sim = Sim::builder().model(model).start().await.unwrap();
    let gateway = Gateway::start_up(&[&sim], &[(ALIASES, "gpt=tiny")]).await;
    let mut connection = gateway.connect().await;
    connection.post("/api/chat", &chat_with("gpt")).await;
    assert_eq!(connection.head().await.get("x-llamatower-model"), "tiny");
    for _ in 0..3 {
        let chunk = connection.chunk().await;
        assert!(
            chunk.starts_with("{\"model\":\"gpt\",") && chunk.ends_with("}\n"),
            "{chunk}"
        );
    }
    drop(connection);
    within_limit("the end of the stream at the server", async {
        while sim.state().generating > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_next_model_answers_if_one_is_missing_or_failing() {
    let sim = two_models().await;
    let settings = [
        (ALIASES, "fast=absent|tiny|small"),
        ("LLAMATOWER_RETRY_ATTEMPTS", "1"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let served = async |status: u16| {
        let answer = gateway
            .post("/v1/chat/completions", &chat_with("fast"))
            .await;
        assert_eq!(answer.status, status, "{}", answer.text);
        answer
    };
    let answer = served(200).await;
    assert_eq!(answer.header("x-llamatower-model"), "tiny");
    assert_eq!(answer.json()["model"], "fast");
    let asked_for_absent = |sim: &SimHandle| {
        let requests = sim.requests();
        requests
            .iter()
            .any(|request| request.model() == Some("absent"))
    };
    assert!(!asked_for_absent(&sim), "no server is asked for it in vain");

    sim.arm(Fault::new(FaultKind::LoadFailure).for_model("tiny"));
    let answer = served(200).await;
    assert_eq!(answer.header("x-llamatower-model"), "small");
    let fallbacks = async || gateway.metric("llamatower_fallbacks_total").await;
    assert_eq!(fallbacks().await, 1.0);

    // The client gets the first failure that is not a missing model.
    sim.arm(Fault::new(FaultKind::Busy).for_model("small"));
    let answer = served(500).await;
    assert_eq!(answer.header("x-llamatower-model"), "tiny");
    assert!(
        answer.json()["error"]["message"].is_string(),
        "{}",
        answer.text
    );
    assert_eq!(fallbacks().await, 3.0);
}

#[tokio::test]
async fn a_server_that_is_down_is_followed_by_a_model_of_another_one() {
    let tiny = Sim::builder()
        .model(ModelSpec::new("tiny"))
        .start()
        .await
        .unwrap();
    let small = Sim::builder()
        .model(ModelSpec::new("small"))
        .start()
        .await
        .unwrap();
    let gateway = Gateway::start_up(&[&tiny, &small], &[(ALIASES, "fast=tiny|small")]).await;
    let answer = gateway.post("/api/chat", &chat_with("fast")).await;
    assert_eq!(answer.header("x-llamatower-model"), "tiny");
    drop(tiny);
    let answer = gateway.post("/api/chat", &chat_with("fast")).await;
    assert_eq!(
        (answer.status, answer.header("x-llamatower-model")),
        (200, "small")
    );
}

#[tokio::test]
async fn an_alias_without_an_installed_model_tells_what_it_stands_for() {
    let sim = two_models().await;
    let gateway = Gateway::start_up(&[&sim], &[(ALIASES, "gpt=absent|none")]).await;
    let text = "model 'gpt' not found: it stands for absent, none, and no server has one of these";
    for (path, place) in [
        ("/api/chat", "/error"),
        ("/v1/chat/completions", "/error/message"),
        ("/v1/messages", "/error/message"),
        ("/api/show", "/error"),
    ] {
        let answer = gateway.post(path, &chat_with("gpt")).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
        assert_eq!(answer.json().pointer(place).unwrap(), text, "{path}");
    }
}

/// Sends a chat request that holds its slot until the connection is dropped.
async fn hold(gateway: &Gateway, model: &str) -> Connection {
    let mut connection = gateway.connect().await;
    connection.post("/api/chat", &chat_with(model)).await;
    connection.head().await;
    connection
}

#[tokio::test]
async fn a_full_queue_is_followed_by_the_next_model() {
    let slow = |name| {
        ModelSpec::new(name)
            .with_pace(Duration::from_millis(20))
            .with_reply_tokens(1000)
    };
    let sim = Sim::builder()
        .model(slow("tiny"))
        .model(slow("small"))
        .start()
        .await
        .unwrap();
    let settings = [
        (ALIASES, "fast=tiny|small"),
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_QUEUE_MAX_WAITING", "1"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let _held = hold(&gateway, "fast").await;
    let mut waiting = gateway.connect().await;
    waiting.post("/api/chat", &chat_with("tiny")).await;
    within_limit("a waiting request", async {
        while gateway.metric("llamatower_queue_depth").await < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut connection = gateway.connect().await;
    connection.post("/api/chat", &chat_with("fast")).await;
    let head = connection.head().await;
    assert_eq!(
        (head.status, head.get("x-llamatower-model")),
        (200, "small")
    );
}

#[tokio::test]
async fn an_alias_with_the_name_of_a_model_wins_and_the_log_says_so() {
    let sim = two_models().await;
    let gateway = Gateway::start_up(&[&sim], &[(ALIASES, "tiny=small, small=small|other")]).await;
    let line = gateway
        .logged("the alias that hides a model", |line| {
            line["alias"].is_string()
        })
        .await;
    assert_eq!(line["alias"], "tiny", "{line}");
    let answer = gateway.post("/api/chat", &chat_with("tiny")).await;
    assert_eq!(answer.header("x-llamatower-model"), "small");
    // In its own list, the name is the model.
    let answer = gateway.post("/api/chat", &chat_with("small")).await;
    assert_eq!(answer.header("x-llamatower-model"), "small");
    assert!(!gateway.has_logged(|line| line["alias"] == "small"));
}

#[tokio::test]
async fn unusable_aliases_prevent_the_start_and_the_error_names_them() {
    for (value, expected) in [
        ("gpt=gpt:latest", "gpt stands for itself"),
        ("a=b,b=a", "aliases stand for each other: a, b, a"),
        ("gpt=", "gpt stands for no model"),
        ("gpt", "is not like gpt-4o-mini=qwen2.5-coder:7b"),
        ("gpt=a b", "\"a b\" is not a model's name"),
        ("gpt=a*9|b", "some models have a weight and some have none"),
        ("gpt=a*0", "the weight in \"a*0\""),
        (
            "gpt=dearest(a|b)",
            "how gpt chooses a model: it must be one of cheapest, resident",
        ),
        ("gpt=a,gpt:latest=b", "twice"),
    ] {
        let exited = run(&["check"], &[(ALIASES, value)]).await;
        let told = format!("{}{}", exited.stdout, exited.stderr);
        assert_eq!(exited.code, Some(2), "{value}: {told}");
        assert!(
            told.contains(ALIASES) && told.contains(expected),
            "{value}: {told}"
        );
    }
}

#[tokio::test]
async fn the_row_of_an_alias_without_a_model_is_not_found_and_the_error_names_its_models() {
    let sim = two_models().await;
    let gateway = Gateway::start_up(&[&sim], &[(ALIASES, "ghost=none:1b|none:2b")]).await;
    let row = send(gateway.get("/v1/models/ghost")).await;
    assert_eq!(row.status, 404, "{}", row.text);
    let expected =
        "model 'ghost' not found: it stands for none:1b, none:2b, and no server has one of these";
    assert_eq!(row.json()["error"]["message"], expected);
    let shown = gateway.post("/api/show", &json!({"model": "ghost"})).await;
    assert_eq!(shown.json()["error"], expected, "as where the model is run");
}

#[tokio::test]
async fn aliases_are_reloaded() {
    let sim = two_models().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |text: &str| std::fs::write(file.path(), text).unwrap();
    write("[aliases]\ngpt = \"tiny\"\n");
    let path = file.path().to_str().unwrap();
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_CONFIG", path)]).await;
    let answer = gateway.post("/api/chat", &chat_with("gpt")).await;
    assert_eq!(answer.header("x-llamatower-model"), "tiny");
    write("[[aliases]]\nname = \"gpt\"\nmodels = [\"small\", \"tiny\"]\n");
    let line = gateway.hang_up("settings reloaded").await;
    assert_eq!(line["changed"], ALIASES, "{line}");
    let answer = gateway.post("/api/chat", &chat_with("gpt")).await;
    assert_eq!(answer.header("x-llamatower-model"), "small");
}

/// The guide's first example in this language.
fn example(language: &str) -> String {
    let guide = include_str!("../../docs/models.md");
    let (_, rest) = guide.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_example_of_the_guide_is_answered_as_it_says() {
    let models = ["qwen2.5-coder:7b", "qwen2.5:7b", "llama3.2:3b", "qwen3:8b"];
    let sim = models.into_iter().fold(Sim::builder(), |sim, model| {
        sim.model(ModelSpec::new(model))
    });
    let sim = sim.start().await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), example("toml")).unwrap();
    let path = file.path().to_str().unwrap();
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_CONFIG", path)]).await;
    let command = example("sh");
    let (_, body) = command.split_once("-d '").unwrap();
    let body: Value = serde_json::from_str(body.split_once('\'').unwrap().0).unwrap();
    let path = "/v1/chat/completions";
    assert!(command.contains(path));
    let answer = gateway.post(path, &body).await;
    assert_eq!(answer.header("x-llamatower-model"), "qwen2.5-coder:7b");
    let shown: Value = serde_json::from_str(&example("json")).unwrap();
    for (key, value) in shown.as_object().unwrap() {
        assert_eq!(answer.json()[key], *value, "{key}");
    }
    let listed = send(gateway.get("/v1/models")).await.text;
    for alias in ["gpt-4o-mini", "fast", "chat", "small"] {
        assert!(listed.contains(&format!("\"id\":\"{alias}\"")), "{listed}");
        let answer = gateway.post("/api/chat", &chat_with(alias)).await;
        assert_eq!(answer.status, 200, "{alias}: {}", answer.text);
    }
    // The line for the environment is the same as the tables.
    let guide = include_str!("../../docs/models.md");
    let (_, line) = guide.split_once("LLAMATOWER_ALIASES=\"").unwrap();
    let line = line.split_once('"').unwrap().0;
    let gateway = Gateway::start_up(&[&sim], &[(ALIASES, line)]).await;
    let answer = gateway.post("/api/chat", &chat_with("fast")).await;
    assert_eq!(answer.header("x-llamatower-model"), "qwen2.5:7b");
}

#[tokio::test]
async fn an_error_too_large_to_keep_has_its_status_if_the_last_model_is_missing() {
    let sim = tiny().await;
    let body = format!(r#"{{"error":"{}"}}"#, "x".repeat(100_000));
    sim.arm(Fault::new(FaultKind::Status { status: 503, body }).for_model("tiny"));
    let gateway = Gateway::start_up(&[&sim], &[(ALIASES, "gpt=tiny|absent")]).await;
    let answer = gateway.post("/api/chat", &chat_with("gpt")).await;
    let text = answer.json()["error"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 503, "{text}");
    assert!(text.contains(&sim.addr().to_string()), "{text}");
}
