//! The log lines.

use http::StatusCode;
use llamatower::telemetry::{LogFormat, Telemetry, TelemetryConfig, TelemetryError};
use llamatower_layers::Outcome;

use crate::gateway::*;

async fn log_of(format: LogFormat, model: &'static str) -> String {
    let log = Log::default();
    let config = TelemetryConfig {
        log_format: format,
        ..TelemetryConfig::default()
    };
    let gateway = Gateway::start(&config, &[], &log);
    let change = |outcome: &mut Outcome| {
        outcome.model = Some(model.into());
        outcome.identity = Some("team-a".into());
        outcome.backend = Some("gpu-1".into());
        outcome.attempts = 2;
        outcome.error = Some("backend_died");
    };
    gateway.refuse(StatusCode::BAD_GATEWAY, change).await;
    log.text()
}

#[tokio::test]
async fn a_request_logs_one_json_line_with_its_outcome() {
    let text = log_of(LogFormat::Json, "llama3.2").await;
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (field, value) in [
        ("target", "llamatower::access"),
        ("level", "INFO"),
        ("method", "POST"),
        ("route", "/api/chat"),
        ("model", "llama3.2"),
        ("backend", "gpu-1"),
        ("ending", "complete"),
        ("error", "backend_died"),
        ("request_id", "id-1"),
        ("identity", "team-a"),
        ("client", "198.51.100.7"),
    ] {
        assert_eq!(line[field], value, "{field} in {text}");
    }
    assert_eq!(line["status"], 502);
    assert_eq!(line["attempts"], 2);
    assert!(line["duration"].is_f64() && line["ttfb"].is_f64(), "{text}");
    assert!(line.get("path").is_none());
}

#[tokio::test]
async fn a_model_name_cannot_forge_a_log_line() {
    let model = "x\n2030-01-01 INFO llamatower::access: \u{1b}[31mforged\r";
    for format in [LogFormat::Human, LogFormat::Json] {
        let text = log_of(format, model).await;
        assert_eq!(text.lines().count(), 1, "{text}");
        let is_control = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(is_control), "{text:?}");
    }
}

#[tokio::test]
async fn a_long_model_name_is_shortened() {
    let model: &'static str = "\u{e9}".repeat(100_000).leak();
    let text = log_of(LogFormat::Json, model).await;
    assert!(text.len() < 2_000, "{}", text.len());
}

#[tokio::test]
async fn the_process_has_one_log() {
    let config = TelemetryConfig::default();
    let first = Telemetry::start(&config, &|_| None).unwrap();
    let second = Telemetry::start(&config, &|_| None);
    assert!(matches!(second, Err(TelemetryError::AlreadyStarted)));
    assert!(
        first
            .metrics_page()
            .contains("llamatower_log_lines_dropped_total")
    );
    first.shutdown(LIMIT).await;
}

#[test]
fn an_invalid_filter_is_named() {
    let config = TelemetryConfig {
        log_filter: "llamatower=loud".to_owned(),
        ..TelemetryConfig::default()
    };
    let error = prepare(&config, &[], Log::default()).err().unwrap();
    assert!(error.to_string().contains("llamatower=loud"), "{error}");
}
