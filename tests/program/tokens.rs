//! Tokens: what backends count, as operators see it.

use serde_json::json;

use crate::harness::{Gateway, chat, tiny, with};

#[tokio::test]
async fn tokens_are_in_the_log_and_on_the_page_of_metrics_in_every_dialect() {
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
    assert_eq!(count("gen_ai_client_token_usage_count").await, 12.0);
    // OpenAI's and Anthropic's dialects do not say how long it took.
    let times = "gen_ai_server_time_per_output_token_seconds_count";
    assert_eq!(count(times).await, 2.0);
}
