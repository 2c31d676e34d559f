//! What the gateway knows of each server: its version, its models on disk and in memory.

use std::cell::Cell;

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, chat, load, send, sim_with, tiny, with, within_limit};

/// The row of a server on `/status`.
async fn row(gateway: &Gateway, sim: &SimHandle) -> Value {
    let status = gateway.admin_page("/status").await.json();
    let rows = status["backends"].as_array().unwrap();
    let name = sim.addr().to_string();
    rows.iter()
        .find(|row| row["name"] == *name)
        .unwrap()
        .clone()
}

/// Waits until the row of a server on `/status` is as described.
async fn row_when(
    gateway: &Gateway,
    sim: &SimHandle,
    what: &str,
    is_it: impl Fn(&Value) -> bool,
) -> Value {
    within_limit(what, async {
        loop {
            let row = row(gateway, sim).await;
            if is_it(&row) {
                return row;
            }
        }
    })
    .await
}

fn requests(sim: &SimHandle, path: &str) -> usize {
    let requests = sim.requests();
    requests.iter().filter(|seen| seen.path() == path).count()
}

const FAST_PROBES: (&str, &str) = ("LLAMATOWER_PROBE_INTERVAL", "50ms");

#[tokio::test]
async fn the_status_has_the_version_and_the_models_on_disk_and_in_memory() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[FAST_PROBES]).await;
    let known = |row: &Value| row["resident"].is_array();
    let before = row_when(&gateway, &sim, "a list of models in memory", known).await;
    assert_eq!(before["resident"], json!([]));
    assert_eq!(before["installed"], 1);
    assert!(before["version"].is_string(), "{before}");
    gateway.post("/api/chat", &chat()).await;
    let loaded = |row: &Value| row["resident"] != json!([]);
    let after = row_when(&gateway, &sim, "a model in memory", loaded).await;
    let model = &after["resident"][0];
    assert_eq!(model["model"], "tiny:latest");
    assert!(model["size"].as_u64().unwrap() > 0, "{model}");
    assert_eq!(model["size_vram"], 0);
    assert!(model["context_length"].as_u64().unwrap() > 0, "{model}");
    let expires_at: jiff::Timestamp = model["expires_at"].as_str().unwrap().parse().unwrap();
    assert!(expires_at > jiff::Timestamp::now(), "{model}");
}

#[tokio::test]
async fn a_server_without_a_list_of_models_in_memory_stays_up() {
    for page in [(404, "404 page not found"), (200, "<html>")] {
        let sim = tiny().await;
        let (status, body) = (page.0, page.1.to_owned());
        sim.arm(Fault::new(FaultKind::Status { status, body }).for_path("/api/ps"));
        let gateway = Gateway::start_up(&[&sim], &[FAST_PROBES]).await;
        within_limit("several probes", async {
            while requests(&sim, "/api/ps") < 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
        let row = row(&gateway, &sim).await;
        assert_eq!(
            (&row["is_up"], &row["resident"]),
            (&json!(true), &json!(null))
        );
        let fails = |line: &Value| line["message"] == "the probe failed";
        assert!(!gateway.has_logged(fails));
    }
}

#[tokio::test]
async fn a_list_of_models_in_memory_that_hangs_neither_fails_nor_delays_the_probes() {
    let sim = tiny().await;
    sim.arm(Fault::new(FaultKind::Hang).for_path("/api/ps"));
    let timeout = ("LLAMATOWER_PROBE_TIMEOUT", "1h");
    let gateway = Gateway::start_up(&[&sim], &[FAST_PROBES, timeout]).await;
    within_limit("several probes", async {
        while requests(&sim, "/api/tags") < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(requests(&sim, "/api/ps"), 1, "one read at a time");
    let row = row(&gateway, &sim).await;
    assert_eq!(
        (&row["is_up"], &row["resident"]),
        (&json!(true), &json!(null))
    );
}

#[tokio::test]
async fn the_models_in_memory_are_not_known_while_a_server_is_down() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[FAST_PROBES]).await;
    gateway.post("/api/chat", &chat()).await;
    let loaded = |row: &Value| row["resident"][0]["model"] == "tiny:latest";
    row_when(&gateway, &sim, "a model in memory", loaded).await;
    let fails = FaultKind::Status {
        status: 500,
        body: String::new(),
    };
    sim.arm(Fault::new(fails.clone()).for_path("/api/tags"));
    sim.arm(Fault::new(fails).for_path("/api/ps"));
    let is_down = |row: &Value| row["is_up"] == false && row["resident"].is_null();
    row_when(&gateway, &sim, "the server is down", is_down).await;
    sim.clear_faults();
    row_when(&gateway, &sim, "a model in memory again", loaded).await;
}

/// A server with two models.
async fn small_and_large() -> SimHandle {
    let models = ["small", "large"].map(|name| ModelSpec::new(name).with_slots(8));
    let [small, large] = models;
    Sim::builder()
        .model(small)
        .model(large)
        .start()
        .await
        .unwrap()
}

fn chat_with(model: &str) -> Value {
    with(chat(), json!({"model": model}))
}

#[tokio::test]
async fn a_model_that_is_not_allowed_on_its_server_is_neither_listed_nor_used() {
    let sim = small_and_large().await;
    let allowed = format!("{}=sm*", sim.addr());
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_BACKEND_MODELS", &allowed)]).await;
    let load = format!("{}/api/generate", sim.url());
    let load = reqwest::Client::new()
        .post(load)
        .json(&json!({"model": "large"}));
    assert_eq!(send(load).await.status, 200);
    assert_eq!(
        gateway.post("/api/chat", &chat_with("small")).await.status,
        200
    );
    for list in ["/api/tags", "/api/ps", "/v1/models"] {
        let page = send(gateway.get(list)).await.text;
        assert!(page.contains("small") && !page.contains("large"), "{page}");
    }
    for path in [
        "/api/chat",
        "/api/generate",
        "/api/show",
        "/v1/chat/completions",
    ] {
        let answer = gateway.post(path, &chat_with("large")).await;
        assert_eq!(answer.status, 404, "{}", answer.text);
        assert!(
            answer.text.contains("model 'large' not found"),
            "{}",
            answer.text
        );
    }
    assert_eq!(send(gateway.get("/v1/models/large")).await.status, 404);
    let seen = sim.requests();
    let large = seen.iter().filter(|seen| seen.model() == Some("large"));
    assert_eq!(large.count(), 1, "only the request of this test itself");
}

#[tokio::test]
async fn a_model_goes_to_a_server_where_it_is_allowed() {
    let (one, other) = (small_and_large().await, small_and_large().await);
    let allowed = format!("{}=small", one.addr());
    let settings = [("LLAMATOWER_BACKEND_MODELS", &*allowed)];
    let gateway = Gateway::start_up(&[&one, &other], &settings).await;
    for model in ["large", "small", "small"].repeat(4) {
        let answer = gateway.post("/api/chat", &chat_with(model)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let seen = one.requests();
    let chats = seen.iter().filter(|seen| seen.path() == "/api/chat");
    let models: Vec<_> = chats.filter_map(|seen| seen.model()).collect();
    assert!(
        !models.is_empty() && models.iter().all(|model| *model == "small"),
        "{models:?}"
    );
}

#[tokio::test]
async fn different_models_of_one_name_are_on_the_status_page_and_logged_once() {
    let digests = ["a", "b"].map(|digit| digit.repeat(64));
    let model = |digest: &String| ModelSpec::new("tiny").with_digest(digest);
    let one = sim_with(model(&digests[0])).await;
    let other = sim_with(model(&digests[1])).await;
    let gateway = Gateway::start(&[&one, &other], &[FAST_PROBES]).await;
    let is_drift = |line: &Value| line["model"] == "tiny:latest" && line["level"] == "WARN";
    let warning = gateway.logged("the drift", is_drift).await;
    let (one_at, other_at) = (one.addr().to_string(), other.addr().to_string());
    let named = format!("aaaaaaaaaaaa ({one_at}), bbbbbbbbbbbb ({other_at})");
    assert_eq!(warning["digests"], named, "{warning}");
    let status = gateway.admin_page("/status").await.json();
    let digests = json!({"aaaaaaaaaaaa": [one_at], "bbbbbbbbbbbb": [other_at]});
    let expected = json!([{"model": "tiny:latest", "digests": digests}]);
    assert_eq!(status["digests_differ"], expected);
    let copy = reqwest::Client::new().post(format!("{}/api/copy", one.url()));
    let copy = copy.json(&json!({"source": "tiny", "destination": "another"}));
    assert_eq!(send(copy).await.status, 200);
    row_when(&gateway, &one, "the copy", |row| row["installed"] == 2).await;
    let probes = requests(&one, "/api/tags");
    within_limit("the next probes", async {
        while requests(&one, "/api/tags") < probes + 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let warnings = Cell::new(0);
    gateway.has_logged(|line| {
        warnings.set(warnings.get() + u8::from(is_drift(line)));
        false
    });
    assert_eq!(warnings.get(), 1);
}

#[tokio::test]
async fn the_same_model_on_all_servers_is_no_drift() {
    let (one, other) = (tiny().await, tiny().await);
    let gateway = Gateway::start(&[&one, &other], &[]).await;
    for sim in [&one, &other] {
        row_when(&gateway, sim, "its models", |row| row["installed"] == 1).await;
    }
    let status = gateway.admin_page("/status").await.json();
    assert_eq!(status["digests_differ"], json!([]));
}

#[tokio::test]
async fn lists_have_the_models_of_a_server_that_has_just_begun_to_hang() {
    let (late, other) = (tiny().await, sim_with(ModelSpec::new("small")).await);
    load(&late).await;
    // It counts as up all the time.
    let settings = [("LLAMATOWER_PROBE_TIMEOUT", "20s"), FAST_PROBES];
    let gateway = Gateway::start_up(&[&late, &other], &settings).await;
    let known = |row: &Value| {
        row["resident"]
            .as_array()
            .is_some_and(|rows| rows.len() == 1)
    };
    row_when(&gateway, &late, "a list of models in memory", known).await;
    let models = ["/v1/models", "/api/tags", "/api/ps"].map(|path| gateway.get(path));
    let before = futures_util::future::join_all(models.map(send)).await;
    late.arm(Fault::new(FaultKind::Hang));
    let paths = ["/v1/models", "/api/tags", "/api/ps", "/api/version"];
    let asked = paths.map(|path| send(gateway.get(path)));
    let answers = within_limit("the lists", futures_util::future::join_all(asked)).await;
    // The simulated server calculates the time at which a model leaves memory for each response.
    let without_times = |answer: &Answer| {
        let mut list = answer.json();
        for row in list["models"].as_array_mut().into_iter().flatten() {
            row["expires_at"].take();
        }
        list
    };
    for (answer, before) in answers.iter().zip(&before) {
        assert_eq!(answer.status, 200);
        assert_eq!(without_times(answer), without_times(before));
    }
    for model in ["tiny:latest", "small:latest"] {
        assert!(answers[0].text.contains(model), "{}", answers[0].text);
    }
    assert!(answers[3].json()["version"].is_string());
}
