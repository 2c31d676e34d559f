//! Models that an operator loads and unloads on one server.

use llamatower_sim::SimHandle;
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, send, tiny, within_limit};

async fn change(gateway: &Gateway, sim: &SimHandle, verb: &str, query: &str) -> Answer {
    let path = format!("/backends/{}/{verb}{query}", sim.addr());
    send(gateway.admin_post(&path)).await
}

/// Waits until the status shows this number of models in the memory of the first server.
async fn until_in_memory(gateway: &Gateway, number: usize) {
    within_limit("the models in memory", async {
        loop {
            let status: Value = gateway.admin_page("/status").await.json();
            let resident = status["backends"][0]["resident"].as_array();
            if resident.is_some_and(|rows| rows.len() == number) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_model_is_loaded_and_unloaded_on_the_named_server_alone() {
    let (sim, other) = (tiny().await, tiny().await);
    let gateway = Gateway::start_up(&[&sim, &other], &[]).await;
    until_in_memory(&gateway, 0).await;
    let loaded = change(&gateway, &sim, "load", "?model=tiny").await;
    assert_eq!(loaded.status, 200, "{}", loaded.text);
    assert_eq!(loaded.json()["model"], "tiny:latest");
    until_in_memory(&gateway, 1).await;
    let loads = |sim: &SimHandle| {
        let seen = sim.requests();
        seen.iter()
            .filter(|seen| seen.path() == "/api/generate")
            .count()
    };
    let again = change(&gateway, &sim, "load", "?model=tiny%3Alatest").await;
    assert_eq!((again.status, loads(&sim)), (200, 1), "it is in memory");
    let unloaded = change(&gateway, &sim, "unload", "?model=tiny").await;
    assert_eq!(unloaded.status, 200, "{}", unloaded.text);
    until_in_memory(&gateway, 0).await;
    assert_eq!(loads(&other), 0);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_with_the_reason() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_PINNED_MODELS", "tiny")]).await;
    until_in_memory(&gateway, 1).await;
    for (verb, query, status, reason) in [
        ("load", "", 400, "?model="),
        ("load", "?model=absent", 404, "pull it there first"),
        ("unload", "?model=tiny", 409, "LLAMATOWER_PINNED_MODELS"),
    ] {
        let refused = change(&gateway, &sim, verb, query).await;
        assert_eq!(refused.status, status, "{}", refused.text);
        assert!(refused.text.contains(reason), "{}", refused.text);
    }
    let unknown = send(gateway.admin_post("/backends/absent/load?model=tiny")).await;
    assert_eq!(unknown.status, 404);
    let path = format!("/backends/{}/unload?model=tiny", sim.addr());
    assert_eq!(gateway.admin_page(&path).await.status, 405);
    let remote = gateway
        .admin_post(&path)
        .header("x-forwarded-for", "10.0.0.7");
    assert_eq!(send(remote).await.status, 403);
    let status: Value = gateway.admin_page("/status").await.json();
    assert_eq!(status["backends"][0]["is_ollama"], json!(true));
}
