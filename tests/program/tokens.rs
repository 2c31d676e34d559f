//! Token counts of backends, in the log and the metrics.

use llamatower_sim::{Fault, FaultKind};
use serde_json::{Value, json};

use crate::harness::{ADA_AND_BOB, Gateway, chat, send, tiny, with};

#[tokio::test]
async fn tokens_are_in_the_log_and_the_metrics_in_every_dialect() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    for (path, more) in [
        ("/api/chat", json!({})),
        ("/api/chat", json!({"stream": false})),
        ("/v1/chat/completions", json!({})),
        ("/v1/chat/completions", usage),
        ("/v1/messages", json!({"max_tokens": 9, "stream": true})),
        ("/v1/responses", json!({"input": "hi", "stream": true})),
    ] {
        let name = format!("{path} {more}");
        let answer = gateway.post(path, &with(chat(), more)).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text);
        let id = answer.header("x-request-id").to_owned();
        let line = gateway
            .logged("the end of a request", |line| line["request_id"] == *id)
            .await;
        assert!(line["prompt_tokens"].as_u64() > Some(0), "{name}: {line}");
        assert!(line["output_tokens"].as_u64() > Some(0), "{name}: {line}");
    }
    let count = |name: &'static str| gateway.metric(name);
    for direction in ["input", "output"] {
        let name = format!("gen_ai_client_inference_operation_{direction}_tokens_count");
        assert_eq!(gateway.metric(&name).await, 6.0);
    }
    // OpenAI's and Anthropic's dialects do not contain durations.
    let times = "gen_ai_server_time_per_output_token_seconds_count";
    assert_eq!(count(times).await, 2.0);
}

#[tokio::test]
async fn a_backend_is_asked_for_plain_responses_and_a_compressed_one_is_logged_once() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[]).await;
    let bytes = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\
                 content-length: 3\r\n\r\nxyz";
    let compressed = FaultKind::Raw {
        bytes: bytes.to_owned(),
        ending: Default::default(),
    };
    sim.arm(Fault::new(compressed).for_path("/api/chat").times(2));
    for is_compressed in [true, true, false] {
        let request = gateway.post_request("/api/chat", &chat());
        let answer = send(request.header("accept-encoding", "gzip")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(!answer.header("content-encoding").is_empty(), is_compressed);
    }
    for seen in sim.requests() {
        assert_eq!(
            seen.headers()["accept-encoding"],
            "identity",
            "{}",
            seen.path()
        );
    }
    let is_it = |line: &Value| {
        let text = line["message"].as_str().unwrap_or_default();
        text.starts_with("the backend compresses its responses")
    };
    let line = gateway.logged("the compression", is_it).await;
    assert_eq!(line["backend"], sim.addr().to_string());
    assert_eq!(gateway.count_logged(is_it), 1);
}

#[tokio::test]
async fn a_key_without_tokens_is_refused_in_the_dialect_of_the_route() {
    let sim = tiny().await;
    let settings = [
        ADA_AND_BOB,
        ("LLAMATOWER_KEY_TOKEN_LIMIT", "20/day,1000000/month"),
        (
            "LLAMATOWER_KEY_LIMITS",
            "ada:tokens=500000/day,ada:rate=1/h",
        ),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let ask = async |key: &str, path: &str| {
        let body = with(
            chat(),
            json!({"max_tokens": 20, "options": {"num_predict": 20}}),
        );
        send(
            gateway
                .post_request(path, &body)
                .bearer_auth(format!("{key}-secret")),
        )
        .await
    };
    let first = ask("bob", "/api/chat").await;
    assert_eq!(first.status, 200, "{}", first.text);
    let remaining: Vec<_> = first.headers.get_all("ratelimit").iter().collect();
    assert_eq!(remaining.len(), 2, "{remaining:?}");
    for (path, message) in [
        ("/api/chat", "/error"),
        ("/v1/chat/completions", "/error/message"),
        ("/v1/messages", "/error/message"),
    ] {
        let refusal = ask("bob", path).await;
        assert_eq!(refusal.status, 429, "{path}: {}", refusal.text);
        assert!(refusal.header("retry-after").parse::<u64>().unwrap() <= 86_400);
        let text = refusal.json().pointer(message).unwrap().to_string();
        assert!(
            text.contains("0 of this client's 20 tokens per day are left"),
            "{text}"
        );
    }
    let asked = sim
        .state()
        .requests
        .iter()
        .filter(|request| request.method() == "POST")
        .count();
    assert_eq!(asked, 1, "refused requests are not sent");

    let of_ada = ask("ada", "/api/chat").await;
    assert_eq!(of_ada.status, 200, "{}", of_ada.text);
    let refusal = ask("ada", "/api/chat").await;
    assert!(refusal.text.contains("rate limit"), "{}", refusal.text);
}
