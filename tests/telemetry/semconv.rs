//! The names of GenAI metrics in each version of the conventions, and the values behind them.

use http::{Request, StatusCode};
use llamatower::telemetry::{Semconv, TelemetryConfig};
use tokio::time::{Duration, Instant};

use crate::gateway::{Gateway, Log, chat};
use crate::metrics::sample;
use crate::table::served;

/// The page of a gateway with these names, after a chat and an embedding.
async fn page(semconv: Semconv) -> String {
    let config = TelemetryConfig {
        semconv,
        ..TelemetryConfig::default()
    };
    let gateway = Gateway::start(&config, &[], &Log::default());
    gateway.refuse(StatusCode::OK, served).await;
    let embed = Request::post("/api/embed").body(chat().into_body());
    let embed = embed.unwrap();
    gateway.answer(embed, StatusCode::OK, served).await;
    gateway.telemetry.metrics_page()
}

const CHAT: &str = "gen_ai_operation_name=\"chat\"";
const EMBEDDINGS: &str = "gen_ai_operation_name=\"embeddings\"";
const INFERENCE: &str = "gen_ai_client_inference_duration_seconds_count";
const OPERATION: &str = "gen_ai_client_operation_duration_seconds_count";
const OLD_TOKENS: &str = "gen_ai_client_token_usage_sum";
const NEW_TOKENS: &str = "gen_ai_client_inference_usage_output_tokens_total";

#[tokio::test]
async fn by_default_the_names_are_those_of_version_0_1_0() {
    let page = page(Semconv::default()).await;
    assert_eq!(sample(&page, INFERENCE, &[CHAT]), Some(1.0), "{page}");
    assert_eq!(sample(&page, INFERENCE, &[EMBEDDINGS]), None);
    assert_eq!(sample(&page, OPERATION, &[EMBEDDINGS]), Some(1.0));
    assert_eq!(sample(&page, OPERATION, &[CHAT]), None);
    assert_eq!(sample(&page, NEW_TOKENS, &[CHAT]), Some(20.0));
    assert!(!page.contains("gen_ai_client_token_usage"));
    assert!(!page.contains("gen_ai_client_operation_time_to_first_chunk"));
}

#[tokio::test]
async fn the_names_of_version_1_41_can_be_kept() {
    let page = page(Semconv::V1_41).await;
    assert_eq!(sample(&page, OPERATION, &[CHAT]), Some(1.0), "{page}");
    assert_eq!(sample(&page, OPERATION, &[EMBEDDINGS]), Some(1.0));
    let output = "gen_ai_token_type=\"output\"";
    assert_eq!(sample(&page, OLD_TOKENS, &[CHAT, output]), Some(20.0));
    assert!(page.contains("gen_ai_client_operation_time_to_first_chunk"));
    assert!(!page.contains("gen_ai_client_inference"), "{page}");
}

#[tokio::test]
async fn the_names_of_both_versions_have_the_same_values() {
    let page = page(Semconv::Both).await;
    for (new, old) in [
        (INFERENCE, OPERATION),
        (NEW_TOKENS, OLD_TOKENS),
        (
            "gen_ai_client_inference_time_to_first_chunk_seconds_count",
            "gen_ai_client_operation_time_to_first_chunk_seconds_count",
        ),
    ] {
        let output = match old {
            OLD_TOKENS => "gen_ai_token_type=\"output\"",
            _ => "",
        };
        let new = sample(&page, new, &[CHAT]);
        assert!(new.is_some(), "{page}");
        assert_eq!(new, sample(&page, old, &[CHAT, output]), "{page}");
    }
}

#[tokio::test]
async fn cached_and_reasoning_tokens_are_counted_only_if_the_backend_tells_them() {
    let gateway = Gateway::silent();
    gateway.refuse(StatusCode::OK, served).await;
    let page = gateway.telemetry.metrics_page();
    let cached = "gen_ai_client_inference_usage_cache_read_input_tokens_total";
    let reasoning = "gen_ai_client_inference_usage_reasoning_output_tokens_total";
    assert_eq!(sample(&page, cached, &[CHAT]), Some(10.0), "{page}");
    assert_eq!(sample(&page, reasoning, &[CHAT]), Some(5.0));

    let gateway = Gateway::silent();
    let silent = |outcome: &mut llamatower_layers::Outcome| {
        served(outcome);
        let usage = outcome.usage.as_mut().unwrap();
        (usage.cached_prompt_tokens, usage.reasoning_tokens) = (None, None);
    };
    gateway.refuse(StatusCode::OK, silent).await;
    let page = gateway.telemetry.metrics_page();
    assert!(
        !page.contains(cached) && !page.contains(reasoning),
        "{page}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_time_as_a_client_begins_with_the_first_attempt_and_the_overhead_has_no_waits() {
    let gateway = Gateway::silent();
    let seconds = Duration::from_secs;
    // 3 s until the attempt, 2 s of them in the queue; 4 s for the backend.
    let change = move |outcome: &mut llamatower_layers::Outcome| {
        served(outcome);
        let end = Instant::now();
        outcome.started = end - seconds(7);
        (outcome.first_sent, outcome.waited) = (None, Duration::ZERO);
        outcome.attempted(end - seconds(4), end);
        outcome.queued = Some(seconds(2));
    };
    gateway.refuse(StatusCode::OK, change).await;
    let page = gateway.telemetry.metrics_page();
    for (name, value) in [
        ("gen_ai_server_request_duration_seconds_sum", 7.0),
        ("gen_ai_client_inference_duration_seconds_sum", 4.0),
        (
            "gen_ai_client_inference_time_to_first_chunk_seconds_sum",
            4.0,
        ),
        ("llamatower_queue_wait_seconds_sum", 2.0),
        ("llamatower_overhead_seconds_sum", 1.0),
    ] {
        assert_eq!(sample(&page, name, &[CHAT]), Some(value), "{name}\n{page}");
    }
}

#[tokio::test]
async fn a_request_that_no_backend_was_asked_for_has_no_client_metrics() {
    let gateway = Gateway::silent();
    gateway.refuse(StatusCode::TOO_MANY_REQUESTS, |_| {}).await;
    let page = gateway.telemetry.metrics_page();
    assert!(!page.contains("gen_ai_client"), "{page}");
    assert!(!page.contains("llamatower_overhead"), "{page}");
}
