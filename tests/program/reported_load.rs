//! OpenAI-compatible servers that report how many requests they have.

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle, SimState};
use serde_json::{Value, json};

use crate::harness::{Gateway, chat, long_stream, tiny, within_limit};
use crate::openai::{gateway, openai, paths};

/// Makes a server report its load, as vLLM does.
fn report(sim: &SimHandle, running: u32, waiting: u32) {
    sim.clear_faults();
    let body = format!(
        "# TYPE vllm:num_requests_running gauge\n\
         vllm:num_requests_running{{engine=\"0\",model_name=\"tiny\"}} {running}.0\n\
         # TYPE vllm:num_requests_waiting gauge\n\
         vllm:num_requests_waiting{{engine=\"0\",model_name=\"tiny\"}} {waiting}.0\n"
    );
    let page = FaultKind::Status { status: 200, body };
    sim.arm(Fault::new(page).for_path("/metrics"));
}

/// Waits until `/status` says this of the load that a server reports.
async fn until_reported(gateway: &Gateway, index: usize, expected: Value) {
    within_limit("the load that the server reports", async {
        loop {
            let status = gateway.admin_page("/status").await.json();
            if status["backends"][index]["reported"] == expected {
                return;
            }
        }
    })
    .await;
}

fn chats(sim: &SimHandle) -> usize {
    let paths = paths(sim);
    let chats = paths.iter().filter(|path| *path == "/v1/chat/completions");
    chats.count()
}

#[tokio::test]
async fn a_server_that_reports_a_long_queue_gets_no_request_while_another_is_idle() {
    let (busy, idle) = (tiny().await, tiny().await);
    report(&busy, 8, 40);
    report(&idle, 0, 0);
    let often = [("LLAMATOWER_PROBE_INTERVAL", "50ms")];
    let gateway = gateway(&[openai(&busy), openai(&idle)], &often).await;
    let load = |running: u32, waiting: u32| {
        let of_others = running + waiting;
        json!({"running": running, "waiting": waiting, "of_others": of_others})
    };
    until_reported(&gateway, 0, load(8, 40)).await;
    until_reported(&gateway, 1, load(0, 0)).await;
    for _ in 0..6 {
        assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    }
    assert_eq!((chats(&busy), chats(&idle)), (0, 6));
    report(&busy, 0, 0);
    report(&idle, 8, 40);
    until_reported(&gateway, 0, load(0, 0)).await;
    until_reported(&gateway, 1, load(8, 40)).await;
    for _ in 0..6 {
        assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    }
    assert_eq!((chats(&busy), chats(&idle)), (6, 6));
}

#[tokio::test]
async fn requests_of_the_gateway_itself_are_not_those_of_others() {
    let sim = long_stream().await;
    report(&sim, 1, 0);
    let often = [("LLAMATOWER_PROBE_INTERVAL", "50ms")];
    let gateway = gateway(&[openai(&sim)], &often).await;
    until_reported(
        &gateway,
        0,
        json!({"running": 1, "waiting": 0, "of_others": 1}),
    )
    .await;
    let mut stream = gateway
        .post_request("/api/chat", &chat())
        .send()
        .await
        .unwrap();
    stream.chunk().await.unwrap();
    until_reported(
        &gateway,
        0,
        json!({"running": 1, "waiting": 0, "of_others": 0}),
    )
    .await;
}

#[tokio::test]
async fn a_server_without_gauges_is_asked_for_them_once_until_it_comes_back() {
    let sim = tiny().await;
    let address = sim.addr();
    let often = [("LLAMATOWER_PROBE_INTERVAL", "50ms")];
    let gateway = gateway(&[openai(&sim)], &often).await;
    let asked = |state: &SimState, path: &str| {
        let requests = state.requests.iter();
        requests.filter(|seen| seen.path() == path).count()
    };
    let probes = sim.wait_for(|state| asked(state, "/v1/models") >= 5);
    let state = within_limit("some probes", probes).await;
    assert_eq!(asked(&state, "/metrics"), 1);
    until_reported(&gateway, 0, Value::Null).await;
    sim.kill();
    let is_down = |line: &Value| line["message"] == "the backend is down";
    gateway.logged("the server is down", is_down).await;
    let model = ModelSpec::new("tiny").with_slots(8);
    let back = Sim::builder().model(model).listen(address).start();
    let back = back.await.unwrap();
    let asks = back.wait_for(|state| asked(state, "/metrics") == 1);
    within_limit("a question for the gauges", asks).await;
}
