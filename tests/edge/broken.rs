//! The end of broken streams, byte by byte.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use llamatower::edge::{EdgeConfig, ListenAddr, RequestBody};
use llamatower_layers::endpoint::{EndpointLayer, EndpointTable};
use llamatower_layers::rescue::RescueLayer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tower::{ServiceBuilder, service_fn};

use crate::support::{Running, loopback, within_limit};

const MESSAGE: &str = "internal error: the gateway could not answer this request";

/// An edge before a stack whose response is a stream of these pieces that then breaks.
async fn breaking(content_type: &'static str, pieces: &'static [&'static str]) -> Running {
    let backend = service_fn(move |_: Request<RequestBody>| {
        let pieces = pieces
            .iter()
            .map(|piece| Ok(Frame::data(Bytes::from(*piece))));
        let broken = std::iter::once(Err(std::io::Error::other("the backend died")));
        let body = StreamBody::new(futures_util::stream::iter(pieces.chain(broken)));
        let answer = Response::builder().header("content-type", content_type);
        std::future::ready(Ok::<_, Infallible>(answer.body(body).unwrap()))
    });
    let stack = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(RescueLayer::new())
        .service(backend);
    Running::start(loopback(), stack).await
}

/// Returns what a client receives after the head; a reset fails the test.
async fn sent(edge: &Running, request: &str) -> String {
    let mut client = edge.connect().await;
    client.send(request).await;
    let mut seen = String::new();
    let end = within_limit(client.io.read_to_string(&mut seen)).await;
    end.expect("the connection ends by FIN, not by a reset");
    let (_, body) = seen.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

fn chunk(text: &str) -> String {
    format!("{:X}\r\n{text}\r\n", text.len())
}

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}")
}

#[tokio::test]
async fn after_its_error_line_a_stream_ends_by_fin_without_the_last_chunk() {
    let edge = breaking("application/x-ndjson", &["{\"a\":1}\n", "{\"b\":2}\n"]).await;
    let error = format!("{{\"error\":\"{MESSAGE}\"}}\n");
    let expected = chunk("{\"a\":1}\n") + &chunk("{\"b\":2}\n") + &chunk(&error);
    assert_eq!(sent(&edge, &post("/api/chat")).await, expected);
}

#[tokio::test]
async fn a_half_line_is_ended_before_the_error_line() {
    let edge = breaking("application/x-ndjson", &["{\"a\":1}\n{\"b\""]).await;
    let error = format!("{{\"error\":\"{MESSAGE}\"}}\n");
    let expected = chunk("{\"a\":1}\n") + &chunk("{\"b\"") + &chunk("\n") + &chunk(&error);
    assert_eq!(sent(&edge, &post("/api/chat")).await, expected);
}

#[tokio::test]
async fn after_its_error_event_a_stream_of_events_ends_without_the_last_chunk() {
    let edge = breaking("text/event-stream", &["data: {}\n\n"]).await;
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let seen = sent(&edge, &post(path)).await;
        assert!(seen.contains(MESSAGE), "{seen}");
        assert!(seen.ends_with("}\n\n\r\n"), "{seen}");
    }
}

/// Clients know its last event as an end, and Codex shows its text only before a clean end.
#[tokio::test]
async fn a_stream_of_responses_fails_with_its_last_event_and_ends_clean() {
    let edge = breaking("text/event-stream", &["data: {}\n\n"]).await;
    let mut client = edge.connect().await;
    client.send(post("/v1/responses")).await;
    let answer = client.answer().await;
    assert!(answer.complete, "{}", answer.body);
    let last = answer.body.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("event: response.failed\ndata: "), "{last}");
    assert!(last.contains(MESSAGE), "{last}");
}

#[tokio::test]
async fn the_error_line_is_sent_even_if_the_request_was_not_read() {
    let edge = breaking("application/x-ndjson", &["{\"a\":1}\n"]).await;
    let request = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4096\r\n\r\nhalf";
    let seen = sent(&edge, request).await;
    assert!(
        seen.ends_with(&format!("{{\"error\":\"{MESSAGE}\"}}\n\r\n")),
        "{seen}"
    );
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_every_line_before_the_break() {
    // More than the kernel holds for a unix socket, so that the last lines wait in hyper when the
    // body fails.
    let lines: Vec<_> = (0..40)
        .map(|number| {
            format!(
                "{{\"line\":{number},\"text\":\"{}\"}}\n",
                "x".repeat(16_000)
            )
        })
        .collect();
    let sent = lines.clone();
    let stack = service_fn(move |_: Request<RequestBody>| {
        let lines = sent.clone().into_iter();
        let lines = lines.map(|line| Ok(Frame::data(Bytes::from(line))));
        let broken = std::iter::once(Err(std::io::Error::other("the backend died")));
        let body = StreamBody::new(futures_util::stream::iter(lines.chain(broken)));
        let answer = Response::builder().header("content-type", "application/x-ndjson");
        std::future::ready(Ok::<_, Infallible>(answer.body(body).unwrap()))
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge");
    let config = EdgeConfig {
        listen: vec![ListenAddr::Unix(path.clone())],
        ..EdgeConfig::default()
    };
    let _edge = Running::start(config, stack).await;
    let mut client = UnixStream::connect(path).await.unwrap();
    let request = post("/api/chat");
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match within_limit(client.read(&mut piece)).await.unwrap() {
            0 => break,
            length => seen.extend_from_slice(&piece[..length]),
        }
        // The edge fills the kernel's buffer before each read.
        tokio::task::yield_now().await;
    }
    let seen = String::from_utf8(seen).unwrap();
    let (_, body) = seen.split_once("\r\n\r\n").unwrap();
    let expected: String = lines.iter().map(|line| chunk(line)).collect();
    assert!(body == expected, "{} of {}", body.len(), expected.len());
}

/// A close would end an HTTP/1.0 response normally, so a reset shows that it is incomplete.
#[tokio::test]
async fn a_client_of_http_1_0_gets_the_error_line_and_a_reset() {
    let edge = breaking("application/x-ndjson", &["{\"a\":1}\n"]).await;
    let mut client = edge.connect().await;
    client
        .send(post("/api/chat").replace("HTTP/1.1", "HTTP/1.0"))
        .await;
    client
        .until(&format!("{{\"error\":\"{MESSAGE}\"}}\n"))
        .await;
    let mut rest = Vec::new();
    let end = within_limit(client.io.read_to_end(&mut rest)).await;
    let error = end.expect_err("a close would pass for a whole answer");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
