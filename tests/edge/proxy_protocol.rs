//! The PROXY protocol before the first request of a connection.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use llamatower::edge::{EdgeConfig, RequestBody, TrustedProxies};
use llamatower_layers::ClientAddress;
use tower::service_fn;

use crate::support::{Running, loopback, within_limit};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LINE: &str = "PROXY TCP4 198.51.100.7 10.0.0.1 8080 443\r\n";

async fn who(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let client = ClientAddress::of(request.extensions());
    let text = client.map_or("none".to_owned(), |client| client.0.to_string());
    Ok(Response::new(Full::from(text)))
}

async fn edge(trusted: &str) -> Running {
    let config = EdgeConfig {
        trusted_proxies: TrustedProxies::with([trusted, "192.0.2.7"]).unwrap(),
        requires_proxy_protocol: true,
        header_timeout: Duration::from_millis(500),
        ..loopback()
    };
    Running::start(config, service_fn(who)).await
}

/// A header of version 2, with the address 198.51.100.7 and fields after it.
fn version_2(command: u8) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, 0x11, 0, 12 + 6]);
    bytes.extend([198, 51, 100, 7, 10, 0, 0, 1, 0x1f, 0x90, 1, 0xbb]);
    bytes.extend([0x04, 0, 3, 0, 0, 0]);
    bytes
}

#[tokio::test]
async fn the_header_tells_the_client_of_every_request() {
    let edge = edge("127.0.0.1").await;
    for header in [version_2(0x21), LINE.as_bytes().to_vec()] {
        let mut client = edge.connect().await;
        let mut bytes = header.clone();
        bytes.extend(GET.as_bytes());
        client.send(&bytes).await;
        assert_eq!(client.answer().await.body, "198.51.100.7");
        client.send(GET).await;
        assert_eq!(
            client.answer().await.body,
            "198.51.100.7",
            "the second request"
        );

        let mut client = edge.connect().await;
        for byte in &header {
            client.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        client.send(GET).await;
        assert_eq!(client.answer().await.body, "198.51.100.7", "in pieces");
    }
    let twice = format!("{LINE}{LINE}{GET}");
    let refused = edge.ask(&twice).await;
    assert_eq!(
        refused.status, 400,
        "the client cannot write one of its own"
    );
}

#[tokio::test]
async fn without_an_address_the_client_is_the_proxy_and_its_headers_do_not_count() {
    let edge = edge("127.0.0.1").await;
    let forged = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    for header in [version_2(0x20), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client = edge.connect().await;
        client.send(&header).await;
        client.send(forged).await;
        assert_eq!(client.answer().await.body, "127.0.0.1");
    }
    // The client in the header is not trusted either.
    let answer = edge.ask(&format!("{LINE}{forged}")).await;
    assert_eq!(answer.body, "198.51.100.7");
    // But a proxy behind the first is.
    let second = LINE.replace("198.51.100.7", "192.0.2.7");
    let answer = edge.ask(&format!("{second}{forged}")).await;
    assert_eq!(answer.body, "203.0.113.9");
}

#[tokio::test]
async fn other_peers_and_connections_without_a_header_are_closed_without_an_answer() {
    for (trusted, bytes) in [
        ("10.0.0.1", format!("{LINE}{GET}")),
        ("127.0.0.1", GET.to_owned()),
        (
            "127.0.0.1",
            "PROXY nonsense with a long line\r\n".to_owned(),
        ),
    ] {
        let edge = edge(trusted).await;
        let mut client = edge.connect().await;
        client.send(&bytes).await;
        assert_eq!(client.rest().await, "", "{bytes}");
        assert_eq!(edge.gauges.refused_heads(), 1, "{bytes}");
    }
}

#[tokio::test]
async fn the_clock_of_heads_ends_an_incomplete_header() {
    let edge = edge("127.0.0.1").await;
    for beginning in [&version_2(0x21)[..20], b"PROXY TCP4 198.51"] {
        let mut client = edge.connect().await;
        client.send(beginning).await;
        assert_eq!(within_limit(client.rest()).await, "");
    }
    let quiet = edge.connect().await;
    drop(quiet);
    assert_eq!(edge.gauges.refused_heads(), 0);
}

#[tokio::test]
async fn above_the_limit_of_connections_a_probe_is_answered_behind_its_header() {
    let config = EdgeConfig {
        trusted_proxies: TrustedProxies::with(["127.0.0.1"]).unwrap(),
        requires_proxy_protocol: true,
        max_connections: 0,
        ..loopback()
    };
    let edge = Running::start(config, service_fn(who)).await;
    let probe = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(edge.ask(&format!("{LINE}{probe}")).await.status, 200);
    assert_eq!(edge.ask(&format!("{LINE}{GET}")).await.status, 503);
    let mut without = edge.connect().await;
    without.send(probe).await;
    assert!(without.is_closed().await);
    assert_eq!(edge.gauges.refused_connections(), 2);
}
