//! Loads of models: how long a request waits for one, and loads that no client has asked for.

use std::time::{Duration, Instant};

use llamatower_sim::{Fault, FaultKind, ModelSpec};

use crate::harness::{Gateway, chat, sim_with};

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
