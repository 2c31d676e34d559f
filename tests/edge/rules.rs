use llamatower::edge::{EdgeConfig, Origins};
use llamatower_layers::EndpointTable;
use tower::service_fn;

use crate::support::{Answer, Running, echo, loopback};

async fn edge(config: EdgeConfig) -> Running {
    let endpoints = Some(EndpointTable::ollama().into());
    Running::start(
        EdgeConfig {
            endpoints,
            ..config
        },
        service_fn(echo),
    )
    .await
}

async fn origin(edge: &Running, method: &str, path: &str, origin: &str) -> Answer {
    edge.ask(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"
    ))
    .await
}

#[tokio::test]
async fn a_foreign_page_is_refused_whatever_the_method() {
    let edge = edge(loopback()).await;
    for method in ["GET", "POST", "DELETE", "OPTIONS", "PATCH"] {
        let answer = origin(&edge, method, "/api/tags", "https://evil.example").await;
        assert_eq!(answer.status, 403, "{method}");
        assert!(answer.body.contains("OLLAMA_ORIGINS"), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
        assert_eq!(answer.header("vary"), None);
    }
    let get = origin(&edge, "GET", "/api/tags", "https://evil.example").await;
    assert_eq!(get.header("allow"), None);
    let preflight = origin(&edge, "OPTIONS", "/api/chat", "https://evil.example").await;
    assert_eq!(preflight.header("allow").as_deref(), Some("POST"));
}

#[tokio::test]
async fn a_preflight_of_a_local_page_is_answered_as_ollama_does() {
    let edge = edge(loopback()).await;
    let answer = origin(&edge, "OPTIONS", "/api/chat", "http://localhost:3000").await;
    assert_eq!((answer.status, &*answer.body), (204, ""));
    for (name, value) in [
        (
            "Access-Control-Allow-Headers",
            concat!(
                "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout,",
                "X-Api-Key,Anthropic-Version,Anthropic-Beta,Anthropic-Dangerous-Direct-Browser-Access,X-Stainless-Helper,OpenAI-Organization,OpenAI-Project,Idempotency-Key,X-Request-Id,Traceparent,Tracestate",
            ),
        ),
        (
            "Access-Control-Allow-Methods",
            "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
        ),
        ("Access-Control-Allow-Origin", "http://localhost:3000"),
        ("Access-Control-Max-Age", "43200"),
        ("Allow", "POST"),
    ] {
        assert_eq!(answer.header(name).as_deref(), Some(value));
    }
    assert_eq!(
        answer.headers("vary"),
        [
            "Origin",
            "Access-Control-Request-Method",
            "Access-Control-Request-Headers"
        ]
    );
    assert_eq!(answer.header("content-length"), None);
    let unknown = origin(&edge, "OPTIONS", "/nope", "app://x").await;
    assert_eq!((unknown.status, unknown.header("allow")), (204, None));
}

#[tokio::test]
async fn a_local_page_may_read_its_answer() {
    let edge = Running::start(
        loopback(),
        service_fn(|request: http::Request<_>| async move {
            assert!(!request.headers().contains_key("origin"));
            echo(request).await
        }),
    )
    .await;
    let answer = origin(&edge, "GET", "/api/tags", "vscode-webview://1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("access-control-allow-origin").as_deref(),
        Some("vscode-webview://1")
    );
    assert_eq!(answer.headers("vary"), ["Origin"]);
    let exposed = answer.header("access-control-expose-headers").unwrap();
    for name in [
        "Retry-After",
        "RateLimit",
        "RateLimit-Policy",
        "X-Request-Id",
        "X-Llamatower-Backend",
    ] {
        assert!(exposed.split(',').any(|given| given == name), "{exposed}");
    }
    let same = origin(&edge, "GET", "/", "http://localhost").await;
    assert_eq!((same.status, same.header("vary")), (200, None));
}

#[tokio::test]
async fn all_pages_may_call_if_configured() {
    let origins = Origins::with(["*"]).unwrap();
    let edge = edge(EdgeConfig {
        origins,
        ..loopback()
    })
    .await;
    let answer = origin(&edge, "GET", "/", "https://evil.example").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("access-control-allow-origin").as_deref(),
        Some("*")
    );
    assert_eq!(answer.header("vary"), None);
}

#[tokio::test]
async fn a_foreign_host_is_refused_only_on_loopback() {
    let edge = edge(loopback()).await;
    for (host, status) in [
        ("x", 403),
        ("evil.example:80", 403),
        ("127.0.0.1:1", 200),
        ("LOCALHOST", 200),
        ("", 200),
    ] {
        let answer = edge
            .ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        assert_eq!(answer.status, status, "{host}");
        let names_setting = answer.body.contains("LLAMATOWER_ALLOWED_HOSTS");
        assert_eq!(names_setting, status == 403);
    }
    let open = Running::start(
        EdgeConfig {
            listen: vec!["0.0.0.0:0".parse().unwrap()],
            ..EdgeConfig::default()
        },
        service_fn(echo),
    )
    .await;
    assert_eq!(
        open.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.status,
        200
    );
}

#[tokio::test]
async fn health_is_answered_before_all_rules_and_without_the_stack() {
    let edge = Running::start(
        EdgeConfig {
            base_path: Some("/llm".parse().unwrap()),
            ..loopback()
        },
        service_fn(echo),
    )
    .await;
    for path in ["/health", "/llm/health", "/health?x"] {
        let answer = edge.ask(&format!("GET {path} HTTP/1.1\r\nHost: 10.0.0.1.evil.example\r\nOrigin: https://evil.example\r\n\r\n")).await;
        assert_eq!(
            (answer.status, &*answer.body),
            (200, "{\"status\":\"ok\"}\n"),
            "{path}"
        );
        assert_eq!(
            answer.header("content-type").as_deref(),
            Some("application/json")
        );
    }
    let mut client = edge.connect().await;
    client.send("HEAD /health HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.0 200"));
    let wrong = edge.ask("POST /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(
        (wrong.status, wrong.header("allow").as_deref()),
        (405, Some("GET, HEAD"))
    );
    assert_eq!(edge.gauges.finished(), 0);
}

#[tokio::test]
async fn only_the_base_path_is_removed() {
    let edge = Running::start(
        EdgeConfig {
            base_path: Some("/llm/v2/".parse().unwrap()),
            ..loopback()
        },
        service_fn(echo),
    )
    .await;
    for (target, seen) in [
        ("/llm/v2/api/%74ags?a=%20b&c", "GET /api/%74ags?a=%20b&c"),
        ("/llm/v2/api/x/../y", "GET /api/x/../y"),
        ("/llm/v2", "GET /"),
        ("/llm/v2/", "GET /"),
        ("http://localhost/llm/v2/api/tags", "GET /api/tags"),
    ] {
        let answer = edge
            .ask(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        assert_eq!((answer.status, &*answer.body), (200, seen), "{target}");
    }
    for target in [
        "/api/tags",
        "/llm",
        "/llm/v2x/api/tags",
        "/LLM/v2/api/tags",
        "/x/llm/v2/",
        "/x/../llm/v2/",
    ] {
        let answer = edge
            .ask(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        assert_eq!(
            (answer.status, &*answer.body),
            (404, "404 page not found"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_target_in_absolute_form_must_agree_with_the_host() {
    let edge = edge(loopback()).await;
    for (target, host, status) in [
        ("http://localhost:1/api/tags?q", "localhost:1", 200),
        ("http://evil.example/", "localhost", 400),
        ("http://localhost/", "evil.example", 400),
        ("http://evil.example/", "evil.example", 403),
        ("http://user@localhost/", "user@localhost", 400),
        ("ftp://localhost/", "localhost", 400),
    ] {
        let answer = edge
            .ask(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        assert_eq!(answer.status, status, "{target} {host}");
        if status == 200 {
            assert_eq!(answer.body, "GET /api/tags?q");
        }
    }
}

#[tokio::test]
async fn unusual_requests_that_no_client_needs_are_refused() {
    let edge = edge(loopback()).await;
    let long = "x".repeat(8 * 1024);
    let wide = "x: y\r\n".repeat(101);
    let deep = "y".repeat(130 * 1024);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400),
        ("TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 405),
        ("CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n".to_owned(), 405),
        (format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{wide}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {deep}\r\n\r\n"), 431),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(), 501),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 5\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nExpect: a miracle\r\n\r\n".to_owned(), 417),
        ("GET / HTTP/1.1\r\nHost : localhost\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\na: b\r\n c\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\na: \0\r\n\r\n".to_owned(), 400),
    ] {
        let answer = edge.ask(&request).await;
        let shown = &request[..request.len().min(80)];
        assert_eq!(answer.status, status, "{shown:?}");
    }
}

/// RFC 9112 6.1 allows a server to use the chunks and ignore the length if it closes the
/// connection; Ollama does so.
#[tokio::test]
async fn with_two_framings_the_chunks_count_and_the_connection_is_closed() {
    let edge = edge(loopback()).await;
    let mut client = edge.connect().await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    client
        .send(format!(
            "POST /x HTTP/1.1\r\nHost: localhost\r\n{both}{hidden}"
        ))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, "POST /x"));
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_offered_upgrade_is_ignored() {
    let edge = edge(loopback()).await;
    let mut client = edge.connect().await;
    for _ in 0..2 {
        client.send("GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, "GET /x"));
    }
}

#[tokio::test]
async fn pipelined_requests_are_judged_one_by_one() {
    let edge = edge(loopback()).await;
    let mut client = edge.connect().await;
    client
        .send(
            "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n\
             GET /b HTTP/1.1\r\nHost: evil.example\r\n\r\n\
             GET /c HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.body, "GET /a");
    assert_eq!(client.answer().await.status, 403);
    assert_eq!(client.answer().await.body, "GET /c");
}
