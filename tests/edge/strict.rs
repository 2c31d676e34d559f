//! Strict and lenient parsing of HTTP/1.1, and the resulting errors.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use llamatower::edge::{EdgeConfig, RequestBody};
use llamatower_layers::Failure;
use tower::service_fn;

use crate::support::{Answer, Running, echo, loopback};

/// Responds with what the stack sees of the request: its `Expect`, its length and its body.
async fn show(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let expect = request.headers().contains_key("expect");
    let length = request.body().size_hint().exact();
    let mut answer = Response::new(Full::default());
    match request.into_body().collect().await {
        Ok(body) => {
            let text = String::from_utf8(body.to_bytes().into()).unwrap();
            *answer.body_mut() = Full::from(format!("{expect} {length:?} {text}"));
        }
        Err(error) => *answer.status_mut() = Failure::find(&*error).unwrap().status(),
    }
    Ok(answer)
}

async fn shown(request: &str) -> Answer {
    let edge = Running::start(loopback(), service_fn(show)).await;
    edge.ask(request).await
}

#[tokio::test]
async fn a_host_has_a_port_or_none() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    for (host, status) in [
        ("localhost:abc", 400),
        ("localhost:99999", 400),
        ("localhost:+80", 400),
        ("localhost:-1", 400),
        ("localhost:80:80", 400),
        ("[::1]:x", 400),
        ("localhost:", 200),
        ("localhost:065535", 200),
        ("[::1]:1", 200),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(edge.ask(&request).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn a_target_is_a_path_in_ascii_without_a_fragment() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    for line in [
        "GET /#frag HTTP/1.1",
        "GET /v1/models/m#frag HTTP/1.1",
        "GET http://localhost/#frag HTTP/1.1",
        "GET * HTTP/1.1",
        "GET /caf\u{e9} HTTP/1.1",
        "\rGET / HTTP/1.1",
        // hyper may not implement a later minor version.
        "GET / HTTP/1.2",
    ] {
        let answer = edge
            .ask(&format!("{line}\r\nHost: localhost\r\n\r\n"))
            .await;
        assert_eq!(answer.status, 400, "{line:?}");
        assert_eq!(
            answer.header("connection").is_some(),
            !line.contains(['*', '\u{e9}'])
        );
    }
    let field = "GET / HTTP/1.1\r\nHost: localhost\r\nx: #\r\n\r\n";
    assert_eq!(edge.ask(field).await.status, 200);
}

#[tokio::test]
async fn a_request_line_is_checked_in_every_split() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    for (line, status) in [
        ("GET /#x HTTP/1.1", 400),
        ("\rGET /x HTTP/1.1", 400),
        ("\r\n\nGET /%23 HTTP/1.1", 200),
    ] {
        for cut in 1..line.len() {
            let mut client = edge.connect().await;
            client.io.set_nodelay(true).unwrap();
            client.send(&line[..cut]).await;
            // The server usually receives each piece in a separate read.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            let rest = &line[cut..];
            let fields = "\r\nHost: localhost\r\nx: #\r\n\r\n";
            client.send(format!("{rest}{fields}")).await;
            assert_eq!(client.answer().await.status, status, "{line:?} at {cut}");
        }
    }
}

#[tokio::test]
async fn a_fragment_is_refused_on_a_connection_that_was_used_before() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    let mut client = edge.connect().await;
    for (target, status) in [("/", 200), ("/%23", 200), ("/#x", 400)] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.send(request).await;
        assert_eq!(client.answer().await.status, status, "{target}");
    }
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_request_whose_body_stops_is_answered_and_the_connection_closed_at_once() {
    let config = EdgeConfig {
        body_timeout: Some(Duration::from_millis(50)),
        ..loopback()
    };
    let edge = Running::start(config, service_fn(show)).await;
    let mut client = edge.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 408);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    // Without the two seconds in which the edge would read the rest of the body.
    let closed = tokio::time::timeout(Duration::from_secs(1), client.is_closed());
    assert!(closed.await.unwrap());
}

#[tokio::test]
async fn chunks_are_parsed_leniently_because_they_are_framed_again() {
    for chunk in [
        "5;\r\nhello",
        "5;bad[=x\r\nhello",
        "5;a=\"b;c\r\nhello",
        "5 \r\nhello",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = shown(&format!("{head}{chunk}\r\n0\r\n\r\n")).await;
        assert_eq!(answer.body, "false None hello", "{chunk:?}");
    }
}

#[tokio::test]
async fn malformed_trailers_do_not_begin_a_request() {
    let edge = Running::start(loopback(), service_fn(show)).await;
    let mut client = edge.connect().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\nXPOST /x HTTP/1.1\r\n\r\nGET /y HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status, 400);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_length_is_passed_on_as_the_parsed_number() {
    let answer = shown("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0005\r\n\r\nhello");
    assert_eq!(answer.await.body, "false Some(5) hello");
}

#[tokio::test]
async fn only_a_client_that_waits_gets_100_continue() {
    let length = "Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let old = shown(&format!("POST /x HTTP/1.0\r\n{length}hello")).await;
    assert_eq!(old.body, "false Some(5) hello");
    let here = Running::start(loopback(), service_fn(show)).await;
    let mut client = here.connect().await;
    client
        .send(format!("POST /x HTTP/1.1\r\n{length}hello"))
        .await;
    client.until("\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "false Some(5) hello");
    // In fact, the next request on the connection is waiting.
    client.send(format!("POST /x HTTP/1.1\r\n{length}")).await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("hello").await;
    assert_eq!(client.answer().await.body, "true Some(5) hello");
}

#[tokio::test]
async fn a_head_above_the_limit_gets_431() {
    let config = EdgeConfig {
        max_head_fields: 150,
        ..loopback()
    };
    let edge = Running::start(config, service_fn(echo)).await;
    let many = "x: y\r\n".repeat(120);
    let cookie = format!("Cookie: {}\r\n", "y".repeat(70 * 1024));
    for more in [&many, &cookie] {
        let answer = edge
            .ask(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"))
            .await;
        assert_eq!(answer.status, 200);
    }
    let edge = Running::start(loopback(), service_fn(echo)).await;
    for (others, status) in [(99, 200), (100, 431)] {
        let more = "x: y\r\n".repeat(others);
        let answer = edge
            .ask(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"))
            .await;
        assert_eq!(answer.status, status, "the default is 100 fields");
    }
    let config = EdgeConfig {
        max_head_bytes: 4096,
        max_head_fields: 50,
        ..loopback()
    };
    let edge = Running::start(config, service_fn(echo)).await;
    for (refused, more) in [&many, &cookie].into_iter().enumerate() {
        let answer = edge
            .ask(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"))
            .await;
        assert_eq!(answer.status, 431);
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
        assert!(
            answer.body.contains("too many bytes or fields"),
            "{answer:?}"
        );
        assert_eq!(edge.gauges.refused_heads(), refused as u64 + 1);
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_get_an_error_text() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    for garbage in [
        "\u{16}\u{3}\u{1}\r\n\r\n",
        "get me\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = edge.ask(garbage).await;
        assert_eq!(answer.status, 400, "{garbage:?}");
        assert!(answer.body.contains("not an HTTP/1.0"), "{answer:?}");
    }
    assert_eq!(edge.gauges.refused_heads(), 4);
}

#[tokio::test]
async fn a_head_that_arrived_with_the_previous_request_is_parsed_in_every_split() {
    let edge = Running::start(loopback(), service_fn(show)).await;
    let first = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for body in ["# a title", "\rtext"] {
        let length = body.len();
        let head =
            format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        for cut in 1..head.len() {
            let mut client = edge.connect().await;
            client.send([first, &head[..cut]].concat()).await;
            assert_eq!(client.answer().await.status, 200);
            client.send([&head[cut..], body].concat()).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200, "{body:?} cut at {cut}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn line_ends_in_a_pipelined_body_are_not_a_request_line() {
    let edge = Running::start(loopback(), service_fn(show)).await;
    let head = "DELETE / HTTP/1.1\r\nHost: localhost\r\n";
    let requests = [
        format!("{head}\r\n{head}Content-Length: 6\r"),
        format!("\n\r\n\n\r\r\r\n\n{head}\r\n"),
    ];
    let mut client = edge.connect().await;
    client.io.set_nodelay(true).unwrap();
    for piece in requests {
        client.send(piece).await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn after_a_refused_framing_nothing_more_is_read_from_the_connection() {
    let edge = Running::start(loopback(), service_fn(show)).await;
    let next = "GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (fields, status) in [
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: chunked, chunked\r\n", 501),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            400,
        ),
    ] {
        let mut client = edge.connect().await;
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        client.send(format!("{head}0\r\n\r\n{next}")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{fields:?}");
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
        assert!(client.is_closed().await, "{fields:?}");
    }
}

#[tokio::test]
async fn an_unknown_expectation_is_refused_also_if_the_body_has_arrived() {
    for (version, expectation) in [
        ("1.1", "Expect: a miracle\r\n"),
        ("1.1", "Expect: 100-continue\r\nExpect: a miracle\r\n"),
        ("1.0", "Expect: a miracle\r\n"),
    ] {
        let head = format!("POST / HTTP/{version}\r\nHost: localhost\r\n{expectation}");
        let answer = shown(&format!("{head}Content-Length: 5\r\n\r\nhello")).await;
        assert_eq!(answer.status, 417, "{version} {expectation:?}");
    }
}
