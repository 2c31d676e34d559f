//! How long requests wait for a server that does not answer.

use std::time::Duration;

use llamatower_sim::{Fault, FaultKind, ModelSpec, SimHandle};
use serde_json::{Value, json};

use super::down::{OFTEN, SOON, hang, posts, until_down};
use crate::harness::{Answer, Gateway, chat, load, send, sim_with, tiny, with, within_limit};

/// The retries for this reason.
async fn retries(gateway: &Gateway, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    gateway
        .sample("llamatower_retries_total", &[&label])
        .await
        .unwrap()
}

/// The requests that ask for what a server knows of `tiny`.
fn lookups(gateway: &Gateway) -> [reqwest::RequestBuilder; 2] {
    [
        gateway.post_request("/api/show", &json!({"model": "tiny"})),
        gateway.get("/v1/models/tiny"),
    ]
}

async fn answers(requests: impl IntoIterator<Item = reqwest::RequestBuilder>) -> Vec<Answer> {
    let answers = requests.into_iter().map(send);
    within_limit("all answers", futures_util::future::join_all(answers)).await
}

/// The requests that a server got, without the probes.
fn seen(sim: &SimHandle) -> usize {
    let requests = sim.requests().into_iter();
    let own =
        requests.filter(|seen| !matches!(seen.path(), "/api/tags" | "/api/ps" | "/api/version"));
    own.count()
}

#[tokio::test]
async fn lookups_at_a_server_that_is_found_to_be_down_are_answered_by_another_one() {
    // One kind of lookup at a time: a server that has answered has fewer requests than one that hangs, and
    // gets the next one too, so of more than two requests the number at each server is not certain.
    for kind in [0, 1] {
        let (one, other) = (tiny().await, tiny().await);
        let patient = ("LLAMATOWER_PROBE_TIMEOUT", "1s");
        let gateway = Gateway::start_up(&[&one, &other], &[OFTEN, patient]).await;
        one.arm(Fault::new(FaultKind::Hang));
        let both = [0, 1].map(|_| lookups(&gateway).into_iter().nth(kind).unwrap());
        for answer in answers(both).await {
            assert_eq!(answer.status, 200, "{}", answer.text);
            let served = answer.header("x-llamatower-backend");
            assert_eq!(served, other.addr().to_string());
        }
        assert_eq!(seen(&one), 1, "they took turns");
        assert_eq!(retries(&gateway, "backend_down").await, 1.0);
    }
}

#[tokio::test]
async fn a_lookup_has_a_time_out_of_its_own_and_goes_to_another_server_then() {
    let (one, other) = (tiny().await, tiny().await);
    let gateway = Gateway::start_up(&[&one, &other], &[OFTEN, SOON]).await;
    for sim in [&one, &other] {
        sim.arm(Fault::new(FaultKind::Hang).for_path("/api/show").times(1));
        sim.arm(
            Fault::new(FaultKind::Hang)
                .for_path("/v1/models/tiny")
                .times(1),
        );
    }
    // Each server fails each of them once: the first attempt of one request, and then the second one.
    for request in lookups(&gateway) {
        let late = answers([request]).await.remove(0);
        assert_eq!(late.status, 504, "{}", late.text);
        let limit = "within 1.5s (limit: 5 times LLAMATOWER_PROBE_TIMEOUT)";
        assert!(late.text.contains(limit), "{}", late.text);
    }
    assert_eq!(retries(&gateway, "first_byte_timeout").await, 2.0);
    assert_eq!((seen(&one), seen(&other)), (2, 2));
}

#[tokio::test]
async fn a_request_to_a_server_that_is_known_to_be_down_fails_soon_and_says_so() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[OFTEN, SOON]).await;
    hang(&gateway, &sim).await;
    let stream = gateway.post_request("/api/chat", &chat());
    let whole = gateway.post_request("/api/chat", &with(chat(), json!({"stream": false})));
    let openai = gateway.post_request("/v1/chat/completions", &chat());
    let all = lookups(&gateway).into_iter().chain([stream, whole, openai]);
    for answer in answers(all).await {
        assert_eq!(answer.status, 504, "{}", answer.text);
        let state = format!("the backend {} is down", sim.addr());
        assert!(answer.text.contains(&state), "{}", answer.text);
    }
    assert_eq!(seen(&sim), 5, "each was tried once");
    for path in ["/api/tags", "/api/ps", "/v1/models"] {
        let list = send(gateway.get(path)).await;
        assert_eq!(list.status, 504, "{}", list.text);
        let state = format!(
            "the backend {} did not respond to {path} within",
            sim.addr()
        );
        assert!(list.text.contains(&state), "{}", list.text);
    }
}

#[tokio::test]
async fn a_request_without_a_byte_leaves_a_server_that_stays_silent() {
    let (one, other) = (tiny().await, tiny().await);
    for sim in [&one, &other] {
        load(sim).await;
    }
    let gateway = Gateway::start_up(&[&one, &other], &[OFTEN, SOON]).await;
    one.arm(Fault::new(FaultKind::Hang));
    let all = [chat(), chat()].map(|body| gateway.post_request("/api/chat", &body));
    for answer in answers(all).await {
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    assert_eq!((posts(&one), posts(&other)), (2, 3), "with the loads");
    assert_eq!(retries(&gateway, "backend_down").await, 1.0);
}

/// A server whose `tiny` needs longer to load than the time-out of a request at a silent server.
async fn slow() -> SimHandle {
    sim_with(ModelSpec::new("tiny").with_load_time(Duration::from_secs(3))).await
}

#[tokio::test]
async fn a_server_that_answers_its_probes_again_has_the_usual_time_for_a_request() {
    let sim = slow().await;
    let gateway = Gateway::start_up(&[&sim], &[OFTEN, SOON]).await;
    sim.arm(Fault::new(FaultKind::Hang).for_path("/api/tags"));
    until_down(&gateway, &sim).await;
    let request = tokio::spawn(send(gateway.post_request("/api/chat", &chat())));
    let arrived = sim.wait_for(|state| state.loads == 1);
    within_limit("the request at the server", arrived).await;
    sim.clear_faults();
    let answer = within_limit("the answer", request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn a_server_that_answers_its_probes_with_an_error_has_the_usual_time_for_a_request() {
    let sim = slow().await;
    let gateway = Gateway::start_up(&[&sim], &[OFTEN, SOON]).await;
    let (status, body) = (403, String::new());
    sim.arm(Fault::new(FaultKind::Status { status, body }).for_path("/api/tags"));
    until_down(&gateway, &sim).await;
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let error = |line: &Value| line["message"] == "the probe failed";
    assert!(gateway.has_logged(error));
}
