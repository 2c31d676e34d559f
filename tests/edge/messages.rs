//! Requests and responses in arbitrary pieces.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use llamatower::edge::{EdgeConfig, RequestBody};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tower::service_fn;

use crate::support::{Running, echo, fed, loopback, within_limit};

/// Responds with the body of the request.
async fn mirror(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::from(body)))
}

/// The same, but another task reads the body.
async fn distant_mirror(
    request: Request<RequestBody>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::spawn(mirror(request)).await.unwrap()
}

fn with_length(body: &str) -> String {
    let length = body.len();
    format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn in_chunks(body: &str, size: usize) -> String {
    let mut request =
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for chunk in body.as_bytes().chunks(size) {
        let chunk = std::str::from_utf8(chunk).unwrap();
        request += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
    }
    request + "0\r\n\r\n"
}

async fn send_in_pieces(edge: &Running, requests: &str, cuts: &[usize], bodies: &[String]) {
    let mut client = edge.connect().await;
    client.io.set_nodelay(true).unwrap();
    let mut rest = requests.as_bytes();
    for cut in cuts {
        let (piece, later) = rest.split_at(*cut.min(&rest.len()));
        client.send(piece).await;
        // The server usually receives each piece in a separate read.
        tokio::task::yield_now().await;
        rest = later;
    }
    client.send(rest).await;
    for body in bodies {
        let answer = client.answer().await;
        assert_eq!((answer.status, &answer.body), (200, body));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn requests_that_follow_each_other_are_answered_whatever_the_pieces(
        sizes in proptest::collection::vec(0usize..40_000, 1..5),
        chunk in 1usize..30_000,
        cuts in proptest::collection::vec(1usize..9_000, 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bodies: Vec<_> = sizes.iter().map(|size| "x".repeat(*size)).collect();
            let requests: String = bodies
                .iter()
                .enumerate()
                .map(|(at, body)| match at % 2 {
                    0 => with_length(body),
                    _ => in_chunks(body, chunk),
                })
                .collect();
            let edge = Running::start(loopback(), service_fn(mirror)).await;
            send_in_pieces(&edge, &requests, &cuts, &bodies).await;
            let edge = Running::start(loopback(), service_fn(distant_mirror)).await;
            send_in_pieces(&edge, &requests, &cuts, &bodies).await;
        });
    }
}

#[tokio::test]
async fn a_stream_of_large_and_small_pieces_is_whole() {
    let (feed, body) = fed();
    let body = Arc::new(Mutex::new(Some(body)));
    let stack = service_fn(move |_: Request<RequestBody>| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let edge = Running::start(loopback(), stack).await;
    let mut expected = String::new();
    for size in (0..200).map(|at| [1, 100_000, 20, 0, 17_000, 3_000_000][at % 6] / (1 + at / 6)) {
        let piece = format!("{size} {}", "x".repeat(size));
        expected += &piece;
        feed.frames.send(Bytes::from(piece)).unwrap();
    }
    drop(feed.frames);
    let mut client = edge.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(answer.complete);
    assert!(answer.body == expected, "{} bytes", answer.body.len());
}

/// A body of unknown length that reports its end together with its last piece.
struct Told(VecDeque<Bytes>);

impl Body for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

#[tokio::test]
async fn a_stream_that_ends_with_a_large_piece_is_whole_and_the_next_follows() {
    let stack = service_fn(|request: Request<RequestBody>| async move {
        let size: usize = request.uri().path()[1..].parse().unwrap();
        let pieces = ["x".repeat(size), "y".repeat(size)].map(Bytes::from);
        Ok::<_, Infallible>(Response::new(Told(pieces.into())))
    });
    let edge = Running::start(loopback(), stack).await;
    let mut client = edge.connect().await;
    for size in [1, 1000, 16 * 1024, 100_000, 3] {
        let get = format!("GET /{size} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.send(get).await;
        let answer = client.answer().await;
        assert!(answer.complete, "{size}");
        assert!(
            answer.body == "x".repeat(size) + &"y".repeat(size),
            "{size}"
        );
    }
}

#[tokio::test]
async fn an_empty_line_after_a_body_is_ignored() {
    let edge = Running::start(loopback(), service_fn(mirror)).await;
    let mut client = edge.connect().await;
    for _ in 0..2 {
        client.send(with_length("text") + "\r\n").await;
        assert_eq!(client.answer().await.body, "text");
    }
    edge.shutdown.drain();
    assert!(client.is_closed().await);
    assert_eq!(edge.drained().await.cut, 0);
}

#[tokio::test]
async fn a_body_that_is_kept_but_never_read_does_not_keep_the_connection_open() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeping = kept.clone();
    let stack = service_fn(move |request: Request<RequestBody>| {
        keeping.lock().unwrap().push(request.into_body());
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("kept"))) }
    });
    let config = EdgeConfig {
        keep_alive_timeout: Duration::from_millis(100),
        ..loopback()
    };
    let edge = Running::start(config, stack).await;
    let mut client = edge.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
        .await;
    assert_eq!(client.answer().await.body, "kept");
    assert!(client.is_closed().await);
    assert_eq!(kept.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_that_closes_after_a_part_of_its_next_request_cancels_its_request() {
    let (started, mut requests) = mpsc::unbounded_channel();
    let stack = service_fn(move |_: Request<RequestBody>| {
        let (feed, body) = fed();
        started.send(feed).unwrap();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let edge = Running::start(loopback(), stack).await;
    let mut client = edge.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /next HTT")
        .await;
    let feed = within_limit(requests.recv()).await.unwrap();
    drop(client);
    within_limit(feed.gone).await.unwrap_err();
}

#[tokio::test]
async fn a_response_with_a_wrong_length_ends_unclean() {
    for length in ["3", "5"] {
        let stack = service_fn(move |_: Request<RequestBody>| async move {
            let answer = Response::builder().header("content-length", length);
            let body = Full::new(Bytes::from_static(b"text"));
            Ok::<_, Infallible>(answer.body(body).unwrap())
        });
        let edge = Running::start(loopback(), stack).await;
        let answer = edge.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(!answer.complete, "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_keeps_its_connection_if_it_asks_to() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    let mut client = edge.connect().await;
    for _ in 0..2 {
        client
            .send("GET /x HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.header("connection").as_deref(), Some("keep-alive"));
        assert_eq!(answer.body, "GET /x");
    }
    client
        .send("GET /y HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.body, "GET /y");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_connection_ends_after_a_request_with_connection_close() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    let mut client = edge.connect().await;
    client
        .send("GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert_eq!(answer.body, "GET /a");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_and_the_next_follows() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    let mut client = edge.connect().await;
    client
        .send(
            "HEAD /a HTTP/1.1\r\nHost: localhost\r\n\r\nGET /b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.contains("content-length: 7\r\n"), "{head}");
    assert_eq!(client.answer().await.body, "GET /b");
    client.io.shutdown().await.unwrap();
    assert!(client.is_closed().await);
}
