//! What the gateway knows of each server: its version, its models on disk and in memory.

use llamatower_sim::{Fault, FaultKind, SimHandle};
use serde_json::{Value, json};

use crate::harness::{Gateway, chat, tiny, within_limit};

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

/// A gateway that knows the models of its server.
async fn gateway(sim: &SimHandle, settings: &[(&str, &str)]) -> Gateway {
    let gateway = Gateway::start(&[sim], settings).await;
    let is_up = |line: &Value| line["message"] == "the backend is up";
    gateway.logged("the backend is up", is_up).await;
    gateway
}

fn requests(sim: &SimHandle, path: &str) -> usize {
    let requests = sim.requests();
    requests.iter().filter(|seen| seen.path() == path).count()
}

const FAST_PROBES: (&str, &str) = ("LLAMATOWER_PROBE_INTERVAL", "50ms");

#[tokio::test]
async fn the_status_has_the_version_and_the_models_on_disk_and_in_memory() {
    let sim = tiny().await;
    let gateway = gateway(&sim, &[FAST_PROBES]).await;
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
        let gateway = gateway(&sim, &[FAST_PROBES]).await;
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
    let gateway = gateway(&sim, &[FAST_PROBES, timeout]).await;
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
    let gateway = gateway(&sim, &[FAST_PROBES]).await;
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
