//! Refusals by the edge have an error text in the client's dialect, and reach the observer.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llamatower::edge::{EdgeConfig, RefusalObserver, Refused};
use llamatower_layers::EndpointTable;
use serde_json::Value;
use tower::service_fn;

use crate::support::{Running, echo, loopback};

/// Reason, status, path and client of each refusal.
type Told = (&'static str, u16, Option<String>, Option<IpAddr>);

#[derive(Debug, Default)]
struct Listener(Mutex<Vec<Told>>);

impl RefusalObserver for Listener {
    fn refused(&self, refused: &Refused<'_>) {
        let path = refused.path.map(str::to_owned);
        let told = (
            refused.reason,
            refused.status.as_u16(),
            path,
            refused.client,
        );
        self.0.lock().unwrap().push(told);
    }
}

async fn edge(config: EdgeConfig) -> (Running, Arc<Listener>) {
    let listener = Arc::new(Listener::default());
    let config = EdgeConfig {
        endpoints: Some(EndpointTable::ollama().into()),
        observer: Some(listener.clone()),
        ..config
    };
    (Running::start(config, service_fn(echo)).await, listener)
}

/// The error text that the vendors' libraries read from a body of this path.
fn error_text(path: &str, body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{path}: {body:?}"));
    let error = match path {
        _ if path.starts_with("/api") => &body["error"],
        _ => &body["error"]["message"],
    };
    if path.starts_with("/v1/messages") {
        assert_eq!(body["type"], "error");
    }
    error
        .as_str()
        .unwrap_or_else(|| panic!("{path}: {body}"))
        .to_owned()
}

const PATHS: [&str; 4] = [
    "/api/chat",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
];

#[tokio::test]
async fn each_refusal_has_the_dialect_of_the_path_and_reaches_the_observer() {
    let (edge, listener) = edge(loopback()).await;
    let loopback: IpAddr = [127, 0, 0, 1].into();
    for path in PATHS {
        for (fields, status, reason) in [
            ("Host: evil.example\r\n", 403, "foreign_host"),
            (
                "Host: localhost\r\nOrigin: https://evil.example\r\n",
                403,
                "foreign_origin",
            ),
            ("", 400, "malformed_host"),
            ("Host: localhost:99999\r\n", 400, "malformed_host"),
            (
                "Host: localhost\r\nExpect: a miracle\r\n",
                417,
                "unknown_expectation",
            ),
            (
                "Host: localhost\r\nTransfer-Encoding: gzip, chunked\r\n",
                501,
                "unsupported_transfer_encoding",
            ),
        ] {
            let end = if status == 501 { "0\r\n\r\n" } else { "" };
            let answer = edge
                .ask(&format!("POST {path} HTTP/1.1\r\n{fields}\r\n{end}"))
                .await;
            assert_eq!(answer.status, status, "{path} {fields:?}");
            assert!(error_text(path, &answer.body).len() > 10, "{answer:?}");
            let told = listener.0.lock().unwrap().pop();
            assert_eq!(
                told,
                Some((reason, status, Some(path.to_owned()), Some(loopback)))
            );
        }
        let long = format!("{path}?{}", "x".repeat(8 * 1024));
        let answer = edge
            .ask(&format!("GET {long} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        assert_eq!(answer.status, 414);
        error_text(path, &answer.body);
        let answer = edge
            .ask(&format!("GET {path}#x HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        assert_eq!(answer.status, 400);
        error_text(path, &answer.body);
    }
    let reasons: Vec<_> = listener
        .0
        .lock()
        .unwrap()
        .drain(..)
        .map(|told| told.0)
        .collect();
    assert_eq!(reasons[..2], ["target_too_long", "malformed_request"]);
    edge.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    edge.ask("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .await;
    edge.ask("GET //api/tags HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert!(listener.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_head_that_is_not_read_is_refused_in_the_dialect_of_its_line() {
    let (edge, listener) = edge(EdgeConfig {
        max_head_fields: 20,
        base_path: Some("/llm".parse().unwrap()),
        ..loopback()
    })
    .await;
    let many = "x: y\r\n".repeat(30);
    for path in PATHS {
        for target in [
            path.to_owned(),
            format!("/llm{path}?q=1"),
            format!("http://localhost/llm{path}"),
        ] {
            let line = format!("POST {target} HTTP/1.1");
            let answer = edge
                .ask(&format!("{line}\r\nHost: localhost\r\n{many}\r\n"))
                .await;
            assert_eq!(answer.status, 431, "{target}");
            assert!(error_text(path, &answer.body).contains("LLAMATOWER_MAX_HEAD_FIELDS"));
            let answer = edge
                .ask(&format!("{line}\r\nHost : localhost\r\n\r\n"))
                .await;
            assert_eq!(answer.status, 400, "{target}");
            error_text(path, &answer.body);
            let told: Vec<_> = listener.0.lock().unwrap().drain(..).collect();
            let reasons: Vec<_> = told
                .iter()
                .map(|told| (told.0, told.2.as_deref()))
                .collect();
            assert_eq!(
                reasons,
                [
                    ("head_too_large", Some(path)),
                    ("malformed_head", Some(path))
                ]
            );
        }
    }
    let answer = edge.ask("nonsense\r\n\r\n").await;
    assert_eq!(answer.status, 400);
    error_text("/api", &answer.body);
}

#[tokio::test]
async fn a_head_that_stops_is_refused_in_the_dialect_of_its_line() {
    let (edge, listener) = edge(EdgeConfig {
        header_timeout: Duration::from_millis(50),
        ..loopback()
    })
    .await;
    for path in PATHS {
        let answer = edge
            .ask(&format!("POST {path} HTTP/1.1\r\nHost: local"))
            .await;
        assert_eq!(answer.status, 408);
        assert!(error_text(path, &answer.body).contains("LLAMATOWER_HEADER_TIMEOUT"));
        let told = listener.0.lock().unwrap().pop().unwrap();
        assert_eq!((told.0, told.2.as_deref()), ("head_timeout", Some(path)));
    }
}

#[tokio::test]
async fn a_connection_above_the_limit_reaches_the_observer() {
    let (edge, listener) = edge(EdgeConfig {
        max_connections: 1,
        ..loopback()
    })
    .await;
    let mut first = edge.connect().await;
    first
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(first.answer().await.status, 200);
    let refused = edge.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(refused.status, 503);
    let told = listener.0.lock().unwrap().pop().unwrap();
    let loopback: IpAddr = [127, 0, 0, 1].into();
    let path = Some("/".to_owned());
    assert_eq!(told, ("too_many_connections", 503, path, Some(loopback)));
}

#[tokio::test]
async fn a_head_request_is_refused_without_a_body_and_with_its_length() {
    let (edge, _) = edge(loopback()).await;
    let mut client = edge.connect().await;
    client
        .send("HEAD /api/tags HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(!head.contains("content-length: 0\r\n"), "{head}");
    // The next response follows without a body in between.
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
}
