//! Servers that are known to be down, and what answers in their place.

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};
use serde_json::{Value, json};

use super::aliases::{ALIASES, chat_with};
use crate::harness::{
    Answer, Cloud, Gateway, Reply, chat, keys, send, sim_with, tiny, with, within_limit,
};

const WHEN: &str = "LLAMATOWER_CLOUD_WHEN";
const ANONYMOUS: (&str, &str) = ("LLAMATOWER_CLOUD_ANONYMOUS", "true");
pub(super) const OFTEN: (&str, &str) = ("LLAMATOWER_PROBE_INTERVAL", "100ms");
pub(super) const SOON: (&str, &str) = ("LLAMATOWER_PROBE_TIMEOUT", "300ms");

/// Waits until the gateway has noticed that a server is down.
pub(super) async fn until_down(gateway: &Gateway, sim: &SimHandle) {
    let name = sim.addr().to_string();
    let is_it = |line: &Value| line["message"] == "the backend is down" && line["backend"] == *name;
    gateway.logged("the backend is down", is_it).await;
}

/// Lets a server accept connections and answer nothing, and waits until the gateway has noticed it.
pub(super) async fn hang(gateway: &Gateway, sim: &SimHandle) {
    sim.arm(Fault::new(FaultKind::Hang));
    until_down(gateway, sim).await;
}

#[tokio::test]
async fn a_403_without_a_text_is_told_as_the_check_of_the_name_by_an_ollama_on_loopback() {
    for (body, advice) in [
        ("", "OLLAMA_HOST=0.0.0.0"),
        (
            "no",
            "its token in LLAMATOWER_BACKEND_TOKENS is wrong or missing",
        ),
    ] {
        let sim = tiny().await;
        let body = body.to_owned();
        sim.arm(Fault::new(FaultKind::Status { status: 403, body }));
        let gateway = Gateway::start(&[&sim], &[]).await;
        let line = gateway.logged("the failed probe", |line| {
            line["message"] == "the probe failed"
        });
        let error = line.await["error"].to_string();
        assert!(error.contains(advice), "{error}");
    }
}

/// The requests for a model that a server got.
pub(super) fn posts(sim: &SimHandle) -> usize {
    let requests = sim.requests();
    let posts = requests.iter().filter(|seen| seen.method() == "POST");
    posts.count()
}

fn is_from_cloud(answer: &Answer) -> bool {
    answer.status == 200 && answer.header("x-llamatower-backend") == "cloud"
}

#[tokio::test]
async fn an_alias_goes_on_at_once_while_the_server_of_its_first_model_hangs() {
    let (first, second) = (tiny().await, sim_with(ModelSpec::new("small")).await);
    let settings = [(ALIASES, "fast=tiny|small"), OFTEN, SOON];
    let gateway = Gateway::start_up(&[&first, &second], &settings).await;
    hang(&gateway, &first).await;
    for path in ["/api/chat", "/v1/chat/completions", "/api/show"] {
        let answer = gateway.post(path, &chat_with("fast")).await;
        let served = answer.header("x-llamatower-model");
        assert_eq!((answer.status, served), (200, "small"), "{path}");
    }
    assert_eq!(posts(&first), 0, "nothing has waited for it");
    let (seen, name) = (gateway.lines_logged(), first.addr().to_string());
    first.clear_faults();
    let is_up = |line: &Value| line["message"] == "the backend is up" && line["backend"] == *name;
    gateway.logged_after(seen, "the backend is up", is_up).await;
    let answer = gateway.post("/api/chat", &chat_with("fast")).await;
    assert_eq!(answer.header("x-llamatower-model"), "tiny");
}

#[tokio::test]
async fn a_model_whose_server_is_down_is_tried_if_no_other_one_can_answer() {
    let (first, second) = (tiny().await, sim_with(ModelSpec::new("small")).await);
    let settings = [(ALIASES, "fast=tiny|small"), OFTEN, SOON];
    let gateway = Gateway::start_up(&[&first, &second], &settings).await;
    // Only its probes fail.
    first.arm(Fault::new(FaultKind::Hang).for_path("/api/tags"));
    until_down(&gateway, &first).await;
    second.arm(Fault::new(FaultKind::LoadFailure));
    let answer = gateway.post("/api/chat", &chat_with("fast")).await;
    let served = answer.header("x-llamatower-model");
    assert_eq!((answer.status, served), (200, "tiny"), "{}", answer.text);
}

#[tokio::test]
async fn the_cloud_answers_at_once_while_the_servers_hang() {
    let cloud = Cloud::start().await;
    let (one, other) = (tiny().await, sim_with(ModelSpec::new("small")).await);
    let alias = (ALIASES, "fast=small|tiny");
    let mut settings = cloud.settings().to_vec();
    settings.extend([(WHEN, "down"), ANONYMOUS, OFTEN, SOON, alias]);
    let gateway = Gateway::start_up(&[&one, &other], &settings).await;
    hang(&gateway, &one).await;
    let openai = with(chat(), json!({"stream": true}));
    for (path, body) in [("/api/chat", chat()), ("/v1/chat/completions", openai)] {
        let answer = gateway.post(path, &body).await;
        assert!(is_from_cloud(&answer), "{path}: {answer:?}");
    }
    let local = gateway.post("/api/chat", &chat_with("fast")).await;
    assert_eq!(local.header("x-llamatower-model"), "small");
    hang(&gateway, &other).await;
    let answer = gateway.post("/api/chat", &chat_with("fast")).await;
    assert!(is_from_cloud(&answer), "{answer:?}");
    assert_eq!((posts(&one), posts(&other)), (0, 1));
    let line = gateway.access_line("/api/chat").await;
    assert_eq!(line["cloud"], "down");
}

#[tokio::test]
async fn a_server_that_is_down_by_its_probes_answers_if_the_cloud_cannot() {
    let cloud = Cloud::start().await;
    let sim = tiny().await;
    let mut settings = cloud.settings().to_vec();
    settings.extend([(WHEN, "down"), ANONYMOUS, OFTEN, SOON]);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    sim.arm(Fault::new(FaultKind::Hang).for_path("/api/tags"));
    until_down(&gateway, &sim).await;
    cloud.reply(crate::harness::Reply::Refusal(429, "retry-after: 120\r\n"));
    for _ in 0..2 {
        let answer = gateway.post("/api/chat", &chat()).await;
        let backend = answer.header("x-llamatower-backend").to_owned();
        assert_eq!((answer.status, backend), (200, sim.addr().to_string()));
    }
    assert_eq!(cloud.seen().len(), 1, "it rests then");
}

#[tokio::test]
async fn a_server_that_was_not_probed_yet_is_asked_before_the_cloud() {
    let cloud = Cloud::start().await;
    let sim = Sim::builder().model(ModelSpec::new("tiny"));
    let sim = sim.start().await.unwrap();
    // The first probe has no result for a long time.
    sim.arm(Fault::new(FaultKind::Hang).for_path("/api/tags"));
    let mut settings = cloud.settings().to_vec();
    let patient = ("LLAMATOWER_PROBE_TIMEOUT", "1s");
    settings.extend([(WHEN, "down"), ANONYMOUS, patient]);
    let gateway = Gateway::start(&[&sim], &settings).await;
    let answer = send(gateway.post_request("/api/chat", &chat())).await;
    let backend = answer.header("x-llamatower-backend").to_owned();
    assert_eq!((answer.status, backend), (200, sim.addr().to_string()));
    assert_eq!(cloud.seen().len(), 0);
}

#[tokio::test]
async fn a_cordoned_server_is_replaced_like_one_that_is_down() {
    let cloud = Cloud::start().await;
    let (one, other) = (tiny().await, sim_with(ModelSpec::new("small")).await);
    let alias = (ALIASES, "fast=tiny|small");
    let mut settings = cloud.settings().to_vec();
    settings.extend([(WHEN, "down"), ANONYMOUS, alias]);
    let gateway = Gateway::start_up(&[&one, &other], &settings).await;
    for sim in [&one, &other] {
        let answer = gateway.post("/api/chat", &chat_with("fast")).await;
        assert_eq!(
            answer.header("x-llamatower-backend"),
            sim.addr().to_string()
        );
        let path = format!("/backends/{}/cordon", sim.addr());
        assert_eq!(send(gateway.admin_post(&path)).await.status, 200);
        assert!(is_from_cloud(&gateway.post("/api/chat", &chat()).await));
    }
    let answer = gateway.post("/api/chat", &chat_with("fast")).await;
    assert!(is_from_cloud(&answer), "{answer:?}");
    // It is not in the list of the cloud.
    let refused = gateway.post("/api/chat", &chat_with("small")).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
}

#[tokio::test]
async fn a_request_that_waits_for_a_server_goes_to_the_cloud_when_it_is_cordoned() {
    let cloud = Cloud::start().await;
    let sim = crate::harness::long_stream().await;
    let mut settings = cloud.settings().to_vec();
    settings.extend([(WHEN, "down"), ANONYMOUS, ("LLAMATOWER_SLOTS", "1")]);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let mut first = gateway.connect().await;
    first.post("/api/chat", &chat()).await;
    first.head().await;
    let waiting = tokio::spawn(send(gateway.post_request("/api/chat", &chat())));
    within_limit("a waiting request", async {
        while gateway.metric("llamatower_queue_depth").await < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let path = format!("/backends/{}/cordon", sim.addr());
    assert_eq!(send(gateway.admin_post(&path)).await.status, 200);
    let answer = within_limit("the answer", waiting).await.unwrap();
    assert!(is_from_cloud(&answer), "{answer:?}");
}

/// The names in a list.
async fn listed(gateway: &Gateway, path: &str, key: Option<&str>) -> Vec<String> {
    let request = gateway.get(path);
    let answer = send(match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    })
    .await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    let list = answer.json();
    let rows = list["models"].as_array().or(list["data"].as_array());
    let name = |row: &Value| {
        row["name"]
            .as_str()
            .or(row["id"].as_str())
            .unwrap()
            .to_owned()
    };
    rows.unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn chat_programs_find_and_load_the_models_of_the_cloud_while_the_servers_are_down() {
    let cloud = Cloud::start().await;
    let sim = tiny().await;
    let mut settings = cloud.settings().to_vec();
    let aliases = [
        (ALIASES, "gpt=absent|tiny, other=absent"),
        ("LLAMATOWER_LIST_ALIASES", "true"),
    ];
    settings.extend([(WHEN, "down"), ANONYMOUS, OFTEN, SOON]);
    settings.extend(aliases);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let name = sim.addr().to_string();
    let own = gateway.post("/api/show", &json!({"model": "tiny"})).await;
    assert_eq!(own.header("x-llamatower-backend"), name);
    let before = gateway.get("/api/tags");
    let before = send(before).await;
    assert!(
        !before.text.contains("0000000000"),
        "the server's own row: {}",
        before.text
    );
    hang(&gateway, &sim).await;
    let seen = posts(&sim);
    for path in ["/api/tags", "/v1/models"] {
        assert_eq!(
            listed(&gateway, path, None).await,
            match path {
                "/api/tags" => ["tiny:latest", "gpt:latest"],
                _ => ["tiny:latest", "gpt"],
            }
        );
    }
    assert!(listed(&gateway, "/api/ps", None).await.is_empty());
    let version = send(gateway.get("/api/version")).await;
    assert!(version.json()["version"].is_string(), "{}", version.text);
    for model in ["tiny", "gpt"] {
        let shown = gateway.post("/api/show", &json!({"model": model})).await;
        assert_eq!(shown.status, 200, "{}", shown.text);
        assert_eq!(shown.header("x-llamatower-backend"), "cloud");
        assert_eq!(shown.json()["capabilities"], json!(["completion"]));
        let row = send(gateway.get(&format!("/v1/models/{model}"))).await;
        assert_eq!((row.status, &row.json()["id"]), (200, &json!(model)));
        for (path, body) in [
            ("/api/generate", json!({"model": model})),
            (
                "/api/generate",
                json!({"model": model, "prompt": "", "keep_alive": "5m"}),
            ),
            ("/api/chat", json!({"model": model, "messages": []})),
        ] {
            let loaded = gateway.post(path, &body).await;
            let (text, loaded) = (loaded.text.clone(), loaded.json());
            let (done, reason) = (&loaded["done"], &loaded["done_reason"]);
            assert_eq!(
                (done, reason),
                (&json!(true), &json!("load")),
                "{path}: {text}"
            );
            assert_eq!(loaded["model"], model);
        }
    }
    assert_eq!(cloud.seen().len(), 0, "nothing is sent for it");
    assert_eq!(posts(&sim), seen, "nothing has waited for the server");
    drop(sim);
    let unload = json!({"model": "tiny", "keep_alive": 0});
    for (path, body) in [
        ("/api/show", json!({"model": "other"})),
        ("/api/generate", unload),
    ] {
        let failed = gateway.post(path, &body).await;
        assert_eq!(failed.status, 502, "{path}: {}", failed.text);
    }
}

#[tokio::test]
async fn a_cloud_that_would_not_answer_stands_in_for_no_server() {
    let (sim, cloud) = (tiny().await, Cloud::start().await);
    let mut settings = cloud.settings().to_vec();
    settings.extend([(WHEN, "down"), ANONYMOUS, OFTEN, SOON]);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    // The one that hangs is found to be down; the one that has ended answers at once.
    hang(&gateway, &sim).await;
    drop(sim);
    assert_eq!(listed(&gateway, "/api/tags", None).await, ["tiny:latest"]);
    cloud.reply(Reply::Refusal(429, "retry-after: 3600\r\n"));
    assert_ne!(gateway.post("/api/chat", &chat()).await.status, 200);
    let show = gateway.post("/api/show", &json!({"model": "tiny"})).await;
    assert_eq!(show.status, 502, "{}", show.text);
    assert_eq!(send(gateway.get("/api/tags")).await.status, 502);
}

#[tokio::test]
async fn clients_that_may_not_use_the_cloud_get_the_errors_of_the_servers() {
    let cloud = Cloud::start().await;
    let keys = keys(&["ada", "bob", "eve"]);
    let mut settings = cloud.settings().to_vec();
    settings.extend([
        (WHEN, "down"),
        ("LLAMATOWER_API_KEYS", &*keys),
        ("LLAMATOWER_CLOUD_KEYS_OPT_OUT", "bob"),
        ("LLAMATOWER_KEY_MODELS", "eve=other"),
    ]);
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    drop(sim);
    let ada = listed(&gateway, "/api/tags", Some("ada-secret")).await;
    assert_eq!(ada, ["tiny:latest"]);
    let eve = listed(&gateway, "/api/tags", Some("eve-secret")).await;
    assert!(eve.is_empty(), "{eve:?}");
    for path in ["/api/tags", "/v1/models", "/v1/models/tiny", "/api/version"] {
        let refused = send(gateway.get(path).bearer_auth("bob-secret")).await;
        assert_eq!(refused.status, 502, "{path}: {}", refused.text);
    }
    for path in ["/api/show", "/api/generate"] {
        let request = gateway.post_request(path, &json!({"model": "tiny"}));
        let refused = send(request.bearer_auth("bob-secret")).await;
        assert_eq!(refused.status, 502, "{path}: {}", refused.text);
    }
}

#[tokio::test]
async fn lists_have_the_models_that_only_the_cloud_can_answer_beside_those_of_the_servers() {
    let cloud = Cloud::start().await;
    let [url, authority, _, key] = cloud.settings();
    let map = "small=small, absent=absent, other=other";
    let models = ("LLAMATOWER_CLOUD_MODELS", map);
    for (when, expected) in [
        ("down", vec!["other:latest", "small:latest"]),
        ("missing", vec!["absent:latest", "other:latest"]),
        (
            "down,missing",
            vec!["absent:latest", "other:latest", "small:latest"],
        ),
        ("busy", vec!["other:latest"]),
    ] {
        let (down, up) = (
            sim_with(ModelSpec::new("small")).await,
            sim_with(ModelSpec::new("other")).await,
        );
        let settings = [
            url,
            authority,
            models,
            key,
            (WHEN, when),
            ANONYMOUS,
            OFTEN,
            SOON,
        ];
        let gateway = Gateway::start_up(&[&down, &up], &settings).await;
        hang(&gateway, &down).await;
        let mut found = listed(&gateway, "/api/tags", None).await;
        found.sort();
        assert_eq!(found, expected, "{when}");
        for model in ["absent", "small", "other"] {
            let is_listed = expected.contains(&&*format!("{model}:latest"));
            if !is_listed && model == "small" {
                continue; // The server that hangs would be asked.
            }
            let shown = gateway.post("/api/show", &json!({"model": model})).await;
            assert_eq!(
                shown.status == 200,
                is_listed,
                "{when} {model}: {}",
                shown.text
            );
        }
    }
}
