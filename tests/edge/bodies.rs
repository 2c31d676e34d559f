use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use llamatower::edge::{EdgeConfig, RequestBody};
use llamatower_layers::Failure;
use tokio::io::AsyncWriteExt;
use tower::service_fn;

use crate::support::{Running, loopback, within_limit};

async fn too_large(_: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut answer = Response::new(Full::from("{\"error\":\"request body too large\"}"));
    *answer.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
    Ok(answer)
}

fn post(length: usize, more: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n")
}

#[tokio::test]
async fn a_client_that_sends_too_much_can_read_its_answer() {
    let edge = Running::start(loopback(), service_fn(too_large)).await;
    for _ in 0..40 {
        let client = edge.connect().await;
        let (mut reader, mut writer) = client.io.into_split();
        let sending = tokio::spawn(async move {
            let sent = async {
                writer.write_all(post(8_000_000, "").as_bytes()).await?;
                for _ in 0..8_000 {
                    writer.write_all(&[b'x'; 1000]).await?;
                }
                Ok::<_, std::io::Error>(())
            };
            // The server stops reading at some point.
            let _ = sent.await;
            writer
        });
        let mut seen = Vec::new();
        while !seen.ends_with(b"too large\"}") {
            let read = tokio::io::AsyncReadExt::read_buf(&mut reader, &mut seen);
            assert!(
                within_limit(read).await.unwrap() > 0,
                "closed after {seen:?}"
            );
        }
        assert!(seen.starts_with(b"HTTP/1.1 413"));
        sending.abort();
    }
}

#[tokio::test]
async fn a_client_that_reads_only_after_it_has_sent_can_read_its_answer() {
    let edge = Running::start(loopback(), service_fn(too_large)).await;
    let clients = (0..20).map(|_| async {
        let mut client = edge.connect().await;
        let body = vec![b'x'; 8_000_000];
        client.send(post(body.len(), "")).await;
        // The write may fail, because the server does not read the body.
        let _ = within_limit(client.io.write_all(&body)).await;
        assert_eq!(client.answer().await.status, 413);
    });
    futures_util::future::join_all(clients).await;
}

#[tokio::test]
async fn a_client_that_continues_to_send_for_a_while_gets_no_reset() {
    let edge = Running::start(loopback(), service_fn(too_large)).await;
    let mut client = edge.connect().await;
    client.send(post(8_000_000, "")).await;
    client.send(vec![b'x'; 1_200_000]).await;
    assert_eq!(client.answer().await.status, 413);
    // The server has stopped reading the body and has sent its response.
    assert!(client.is_closed().await);
    for _ in 0..3 {
        client.send(vec![b'x'; 100_000]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_large_early_answer_is_whole_even_if_the_request_offered_an_upgrade() {
    let edge = Running::start(
        loopback(),
        service_fn(|_: Request<RequestBody>| async {
            Ok::<_, Infallible>(Response::new(Full::from("x".repeat(8_000_000))))
        }),
    )
    .await;
    let mut client = edge.connect().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: h2c\r\n";
    client.send(post(3_000_000, upgrade)).await;
    client.send(vec![b'x'; 1_200_000]).await;
    // The server drops the body before the client reads the response.
    while edge.gauges.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = client.answer().await;
    assert_eq!(answer.body.len(), 8_000_000);
}

#[tokio::test]
async fn a_small_unread_body_does_not_close_the_connection() {
    let edge = Running::start(loopback(), service_fn(too_large)).await;
    let mut client = edge.connect().await;
    for _ in 0..3 {
        client.send(post(500_000, "")).await;
        assert_eq!(client.answer().await.status, 413);
        client.send(vec![b'x'; 500_000]).await;
    }
}

#[tokio::test]
async fn an_unwanted_body_is_not_requested_with_100_continue() {
    let edge = Running::start(loopback(), service_fn(too_large)).await;
    let mut client = edge.connect().await;
    client.send(post(1000, "Expect: 100-continue\r\n")).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_wanted_body_is_requested_with_100_continue() {
    let edge = Running::start(
        loopback(),
        service_fn(|request: Request<RequestBody>| async {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, Infallible>(Response::new(Full::from(body)))
        }),
    )
    .await;
    let mut client = edge.connect().await;
    client.send(post(4, "Expect: 100-continue\r\n")).await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("text").await;
    assert_eq!(client.answer().await.body, "text");
}

/// Starts an edge whose stack reads bodies and stores their errors.
async fn failures(config: EdgeConfig) -> (Running, Arc<Mutex<Option<(u16, &'static str)>>>) {
    let seen = Arc::new(Mutex::new(None));
    let noted = seen.clone();
    let stack = service_fn(move |request: Request<RequestBody>| {
        let noted = noted.clone();
        async move {
            let mut answer = Response::new(Full::<Bytes>::default());
            if let Err(error) = request.into_body().collect().await {
                let failure = Failure::find(&*error).unwrap();
                *noted.lock().unwrap() = Some((failure.status().as_u16(), failure.kind()));
                *answer.status_mut() = failure.status();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    (Running::start(config, stack).await, seen)
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_a_timeout_of_the_client() {
    let (edge, seen) = failures(EdgeConfig {
        body_timeout: Some(Duration::from_millis(50)),
        ..loopback()
    })
    .await;
    let mut client = edge.connect().await;
    client.send(post(10, "") + "half").await;
    assert_eq!(client.answer().await.status, 408);
    assert_eq!(*seen.lock().unwrap(), Some((408, "request_body_timeout")));
}

#[tokio::test]
async fn a_malformed_body_is_an_error_of_the_client() {
    for body in ["zz\r\n", "5\r\nabcdefgh", "-1\r\n", "1\nx\n0\n\n"] {
        let (edge, seen) = failures(loopback()).await;
        let mut client = edge.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{body}")).await;
        assert_eq!(client.answer().await.status, 400, "{body:?}");
        assert_eq!(*seen.lock().unwrap(), Some((400, "request_body_broken")));
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn the_rest_of_an_unread_body_is_not_parsed_as_a_head() {
    let config = EdgeConfig {
        header_timeout: Duration::from_millis(50),
        keep_alive_timeout: Duration::from_millis(200),
        ..loopback()
    };
    let edge = Running::start(config, service_fn(too_large)).await;
    for rest in ["# a title", "\rtext\r\n"] {
        let mut client = edge.connect().await;
        client.send(post(rest.len(), "")).await;
        assert_eq!(client.answer().await.status, 413);
        client.send(rest).await;
        client.send(post(0, "")).await;
        assert_eq!(client.answer().await.status, 413, "behind {rest:?}");
        client.send(post(rest.len(), "")).await;
        assert_eq!(client.answer().await.status, 413);
        client.send(rest).await;
        // It ends after the keep-alive time-out, not after the time-out of a head.
        assert!(client.is_closed().await, "behind {rest:?}");
    }
}

#[tokio::test]
async fn a_late_body_does_not_count_for_the_next_head() {
    let edge = Running::start(loopback(), service_fn(too_large)).await;
    let mut client = edge.connect().await;
    client.send(post(5, "")).await;
    assert_eq!(client.answer().await.status, 413);
    client.send("x".repeat(5)).await;
    client.send(post(1000, "Expect: 100-continue\r\n")).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(client.is_closed().await);
}
