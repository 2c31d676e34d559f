//! The stack's responses, as they reach the client.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use llamatower::edge::RequestBody;
use tower::service_fn;

use crate::support::{Running, fed, loopback};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The bytes that a client receives for a response with these headers and pieces.
async fn sent(
    fields: &[(&'static str, &'static str)],
    pieces: &[&'static str],
) -> (String, String) {
    let answer = fields
        .iter()
        .fold(Response::builder(), |answer, (name, value)| {
            answer.header(*name, *value)
        });
    let (head, ()) = answer.body(()).unwrap().into_parts();
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| Bytes::from_static(piece.as_bytes()))
        .collect();
    let body = move || {
        let frames = pieces
            .clone()
            .into_iter()
            .map(|piece| Ok(Frame::data(piece)));
        StreamBody::new(futures_util::stream::iter(frames))
    };
    sent_by(head, body).await
}

async fn sent_by<B>(
    head: response::Parts,
    body: impl Fn() -> B + Clone + Send + 'static,
) -> (String, String)
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let stack = service_fn(move |_: Request<RequestBody>| {
        let answer = Response::from_parts(head.clone(), body().boxed_unsync());
        async { Ok::<_, Infallible>(answer) }
    });
    let edge = Running::start(loopback(), stack).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    let seen = client.rest().await;
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn lines_that_arrived_together_are_sent_as_separate_chunks() {
    let lines = [("content-type", "application/x-ndjson")];
    let (_, chunks) = sent(&lines, &["{\"a\":1}\n{\"b\":2}\n{\"c\"", ":3}\n"]).await;
    let expected = "8\r\n{\"a\":1}\n\r\n8\r\n{\"b\":2}\n\r\n4\r\n{\"c\"\r\n4\r\n:3}\n\r\n0\r\n\r\n";
    assert_eq!(chunks, expected);
}

#[tokio::test]
async fn other_bodies_pass_unchanged() {
    let (_, json) = sent(&[("content-type", "application/json")], &["{\n}\n"]).await;
    assert_eq!(json, "4\r\n{\n}\n\r\n0\r\n\r\n");
    let events = [("content-type", "text/event-stream")];
    let (_, events) = sent(&events, &["data: {}\n\ndata: [DONE]\n\n"]).await;
    assert_eq!(events, "18\r\ndata: {}\n\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    let whole = [
        ("content-type", "application/x-ndjson"),
        ("content-length", "6"),
    ];
    assert_eq!(sent(&whole, &["{}\n{}\n"]).await.1, "{}\n{}\n");
}

#[tokio::test]
async fn a_length_is_sent_once() {
    for lengths in [&["4"][..], &["4", "4"]] {
        let fields: Vec<_> = lengths
            .iter()
            .map(|length| ("content-length", *length))
            .collect();
        let (head, body) = sent(&fields, &["four"]).await;
        assert_eq!(
            (head.matches("content-length: 4").count(), &*body),
            (1, "four")
        );
    }
}

/// Clients must not rely on such a length (RFC 9112 6.3).
#[tokio::test]
async fn an_unreliable_length_is_not_sent() {
    let wrong = [
        &["four"][..],
        &["+4"],
        &[""],
        &["4", "5"],
        &["99999999999999999999"],
    ];
    for lengths in wrong {
        let fields: Vec<_> = lengths
            .iter()
            .map(|length| ("content-length", *length))
            .collect();
        let (head, body) = sent(&fields, &["four"]).await;
        assert!(!head.contains("content-length"), "{head}");
        assert_eq!(body, "4\r\nfour\r\n0\r\n\r\n", "{lengths:?}");
    }
}

#[tokio::test]
async fn the_http_version_of_a_backend_is_not_passed_on() {
    let (mut head, ()) = Response::new(()).into_parts();
    head.version = http::Version::HTTP_10;
    let body = || http_body_util::Full::new(Bytes::from_static(b"abc"));
    let (head, body) = sent_by(head, body).await;
    assert!(head.starts_with("http/1.1 200 ok"), "{head}");
    assert_eq!(body, "abc", "{head}");
}

/// Counts how often a body is polled.
struct Counted<B>(B, Arc<AtomicUsize>);

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

/// Sends a line, and ends the body once the line was received. Returns what the client receives
/// after the line, and how often the body was polled.
async fn a_line_and_later_its_end() -> (String, usize) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (feed, body) = fed();
    let body = Mutex::new(Some(Counted(body, asked.clone())));
    let stack = Arc::new(move |_: Request<RequestBody>| {
        let body = body.lock().unwrap().take().unwrap();
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    });
    let edge = Running::start(loopback(), service_fn(move |request| stack(request))).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    client.until("\r\n\r\n").await;
    feed.frames.send(Bytes::from_static(b"line")).unwrap();
    client.until("line").await;
    drop(feed.frames);
    (client.rest().await, asked.load(Ordering::Relaxed))
}

#[tokio::test]
async fn an_end_after_the_last_line_is_sent() {
    assert_eq!(a_line_and_later_its_end().await.0, "\r\n0\r\n\r\n");
}

/// hyper polls a pending body once more in the same turn; the layers must not notice.
#[tokio::test]
async fn a_pending_body_is_polled_once_per_turn() {
    // Pending, the line, pending, the end.
    assert_eq!(a_line_and_later_its_end().await.1, 4);
}
