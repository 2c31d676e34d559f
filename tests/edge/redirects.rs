//! Redirects from a non-canonical path to the path in the endpoint table.

use llamatower::edge::{EdgeConfig, Origins};
use llamatower_layers::EndpointTable;
use tower::service_fn;

use crate::support::{Running, echo, loopback};

async fn edge(config: EdgeConfig) -> Running {
    let endpoints = Some(EndpointTable::ollama().into());
    let config = EdgeConfig {
        endpoints,
        ..config
    };
    Running::start(config, service_fn(echo)).await
}

#[tokio::test]
async fn a_base_url_with_a_final_slash_is_redirected_to_the_clean_path() {
    let edge = edge(loopback()).await;
    for (method, target, status, location) in [
        ("POST", "//api/chat", 307, Some("/api/chat")),
        ("POST", "/api//chat?x=%2F", 307, Some("/api/chat?x=%2F")),
        ("POST", "/api/chat/", 307, Some("/api/chat")),
        ("GET", "/api/tags/", 301, Some("/api/tags")),
        ("GET", "//v1/models", 307, Some("/v1/models")),
        (
            "GET",
            "//v1/models/tiny%3Alatest",
            307,
            Some("/v1/models/tiny%3Alatest"),
        ),
        ("DELETE", "//api/delete", 307, Some("/api/delete")),
        ("GET", "//evil.example/api/tags", 200, None),
        ("GET", "//evil.example", 200, None),
        ("GET", "/nope/", 200, None),
    ] {
        let mut client = edge.connect().await;
        client
            .send(format!(
                "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{method} {target}");
        assert_eq!(
            answer.header("location").as_deref(),
            location,
            "{method} {target}"
        );
        let link = location.map(|location| format!("<a href=\"{location}\">"));
        match (method, &link) {
            ("GET", Some(link)) => assert!(answer.body.starts_with(link), "{answer:?}"),
            (_, Some(_)) => assert_eq!(answer.body, ""),
            // The stack refuses unknown endpoints.
            (_, None) => assert_eq!(answer.body, format!("{method} {target}")),
        }
        // The connection can serve the next request.
        client
            .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.body, "GET /");
    }
}

#[tokio::test]
async fn a_page_that_may_call_is_redirected_and_a_foreign_one_is_not() {
    let edge = edge(EdgeConfig {
        origins: Origins::with(["https://chat.example"]).unwrap(),
        ..loopback()
    })
    .await;
    for (origin, status) in [("https://chat.example", 307), ("https://evil.example", 403)] {
        let request =
            format!("POST //api/chat HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n");
        let answer = edge.ask(&request).await;
        assert_eq!(answer.status, status);
        let admitted = answer.header("access-control-allow-origin");
        assert_eq!(admitted.is_some(), status == 307);
    }
    let foreign = "GET //api/tags HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(edge.ask(foreign).await.status, 403);
}

#[tokio::test]
async fn the_base_path_stays_in_the_location() {
    let edge = edge(EdgeConfig {
        base_path: Some("/llm/v2".parse().unwrap()),
        ..loopback()
    })
    .await;
    for (target, location) in [
        ("/llm/v2//api/tags?q", Some("/llm/v2/api/tags?q")),
        ("//llm/v2/api/tags", Some("/llm/v2/api/tags")),
        ("/x/../llm/v2/", Some("/llm/v2/")),
        ("//api/tags", None),
        ("/llm/v2/", None),
    ] {
        let answer = edge
            .ask(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        assert_eq!(answer.header("location").as_deref(), location, "{target}");
    }
}
