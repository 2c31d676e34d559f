use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use llamatower::edge::{EdgeConfig, RequestBody};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tower::service_fn;

use crate::support::{Client, FedBody, LARGE, Running, echo, fed, loopback, within_limit};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The client notices that the response is incomplete, although it may end with the connection.
async fn assert_ends_with_reset(client: &mut Client<TcpStream>) {
    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut client.io, &mut rest);
    let error = within_limit(end).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

async fn assert_gets_a_head_timeout<IO>(client: &mut Client<IO>)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let answer = client.answer().await;
    assert_eq!(answer.status, 408);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(answer.body.contains("did not arrive in time"), "{answer:?}");
    assert!(client.is_closed().await);
}

/// An edge with this body as its only response.
async fn streaming(config: EdgeConfig, body: FedBody) -> Running {
    let body = Arc::new(Mutex::new(Some(body)));
    let stack = service_fn(move |_: Request<RequestBody>| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    Running::start(config, stack).await
}

/// An edge whose stack never responds; the sender is dropped with each request's future.
async fn silent(config: EdgeConfig) -> (Running, mpsc::UnboundedReceiver<oneshot::Receiver<()>>) {
    let (started, requests) = mpsc::unbounded_channel();
    let stack = service_fn(move |request: Request<RequestBody>| {
        let started = started.clone();
        async move {
            let _body = request.into_body();
            let (_alive, gone) = oneshot::channel::<()>();
            started.send(gone).unwrap();
            std::future::pending::<Result<Response<FedBody>, Infallible>>().await
        }
    });
    (Running::start(config, stack).await, requests)
}

#[tokio::test]
async fn a_client_that_stops_reading_is_disconnected() {
    let (mut feed, body) = fed();
    let config = EdgeConfig {
        write_stall_timeout: Some(Duration::from_millis(200)),
        ..loopback()
    };
    let edge = streaming(config, body).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    client.until("\r\n\r\n").await;
    // Then silence, as between two tokens.
    feed.send_large(1000);
    within_limit(&mut feed.gone).await.unwrap_err();
    assert_eq!(edge.gauges.in_flight(), 0);
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_not_disconnected() {
    let (feed, body) = fed();
    let config = EdgeConfig {
        write_stall_timeout: Some(Duration::from_secs(1)),
        ..loopback()
    };
    let edge = streaming(config, body).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    feed.send_large(100);
    drop(feed.frames);
    let reading = async {
        let start = Instant::now();
        let mut seen = 0;
        let mut piece = vec![0; 64 * 1024];
        while let Ok(n) = tokio::io::AsyncReadExt::read(&mut client.io, &mut piece).await {
            seen += n;
            if n == 0 || piece[..n].ends_with(b"0\r\n\r\n") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (seen, start.elapsed())
    };
    let (seen, took) = within_limit(reading).await;
    assert!(seen > 100 * LARGE, "{seen} bytes");
    assert!(took > Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_client_that_closes_before_its_answer_drops_the_request() {
    let (edge, mut requests) = silent(loopback()).await;
    for length in [0, 3] {
        let mut client = edge.connect().await;
        let head =
            format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        client.send(head + &"x".repeat(length)).await;
        let gone = within_limit(requests.recv()).await.unwrap();
        assert_eq!(edge.gauges.in_flight(), 1);
        drop(client);
        within_limit(gone).await.unwrap_err();
        assert_eq!(edge.gauges.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_client_that_resets_before_its_answer_drops_the_request() {
    let (edge, mut requests) = silent(loopback()).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    let gone = within_limit(requests.recv()).await.unwrap();
    socket2::SockRef::from(&client.io)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    within_limit(gone).await.unwrap_err();
}

#[tokio::test]
async fn a_client_that_closes_in_mid_stream_drops_the_body() {
    let (mut feed, body) = fed();
    let edge = streaming(loopback(), body).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    feed.frames.send(Bytes::from("line\n")).unwrap();
    client.until("line\n").await;
    drop(client);
    within_limit(&mut feed.gone).await.unwrap_err();
}

#[tokio::test]
async fn a_head_must_arrive_in_time_even_if_it_arrives_byte_by_byte() {
    let edge = Running::start(
        EdgeConfig {
            header_timeout: Duration::from_millis(300),
            ..loopback()
        },
        service_fn(echo),
    )
    .await;
    let mut silent = edge.connect().await;
    assert!(silent.is_closed().await);

    let dripping = edge.connect().await;
    let (reader, mut writer) = dripping.io.into_split();
    let drip = tokio::spawn(async move {
        while tokio::io::AsyncWriteExt::write_all(&mut writer, b"x")
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut dripping = Client::new(tokio::io::join(reader, tokio::io::sink()));
    assert_gets_a_head_timeout(&mut dripping).await;
    within_limit(drip).await.unwrap();
}

/// Its first bytes are held until the head is complete, and hyper reads the rest of a long one.
#[tokio::test]
async fn a_head_in_pieces_is_answered_once_it_is_complete() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    for filler in ["", &"x".repeat(5000)] {
        let head = format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX: {filler}\r\nContent-Length: 2\r\n\r\nhi"
        );
        let mut client = edge.connect().await;
        let pieces = head.len().div_ceil(50);
        for piece in head.as_bytes().chunks(pieces) {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        let answer = client.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, "POST /api/chat"));
    }
}

/// The rest of it would come too late to be understood.
#[tokio::test]
async fn a_malformed_head_is_refused_before_it_is_complete() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nno field\r\n").await;
    assert_eq!(client.answer().await.status, 400);
}

/// Also with a head that is longer than what is held of it.
#[tokio::test]
async fn a_long_head_in_pieces_has_one_time_limit() {
    let edge = Running::start(
        EdgeConfig {
            header_timeout: Duration::from_secs(2),
            ..loopback()
        },
        service_fn(echo),
    )
    .await;
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nX: ").await;
    let start = Instant::now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.send(&"x".repeat(4000)).await;
    assert_gets_a_head_timeout(&mut client).await;
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn the_idle_time_between_requests_has_its_own_timeout() {
    let config = EdgeConfig {
        header_timeout: Duration::from_millis(150),
        keep_alive_timeout: Duration::from_secs(60),
        ..loopback()
    };
    let edge = Running::start(config, service_fn(echo)).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    client.answer().await;
    // Twice the time limit of a head, but no head has begun.
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.send(GET).await;
    assert_eq!(client.answer().await.status, 200);
    // Now a head has begun.
    client.send("GET / HT").await;
    assert_gets_a_head_timeout(&mut client).await;

    let config = EdgeConfig {
        keep_alive_timeout: Duration::from_millis(100),
        ..loopback()
    };
    let edge = Running::start(config, service_fn(echo)).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    client.answer().await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_request_has_no_time_limit_by_default() {
    let config = EdgeConfig {
        header_timeout: Duration::from_millis(50),
        keep_alive_timeout: Duration::from_millis(50),
        body_timeout: None,
        ..loopback()
    };
    let (edge, mut requests) = silent(config.clone()).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    let gone = within_limit(requests.recv()).await.unwrap();
    tokio::time::timeout(Duration::from_millis(300), gone)
        .await
        .unwrap_err();

    let total_timeout = Some(Duration::from_millis(100));
    let (edge, mut requests) = silent(EdgeConfig {
        total_timeout,
        ..config
    })
    .await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    let gone = within_limit(requests.recv()).await.unwrap();
    within_limit(gone).await.unwrap_err();
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn the_total_timeout_restarts_for_each_request_and_ends_streams() {
    let config = EdgeConfig {
        total_timeout: Some(Duration::from_millis(400)),
        ..loopback()
    };
    let (mut feed, body) = fed();
    let edge = streaming(config.clone(), body).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    feed.frames.send(Bytes::from("line\n")).unwrap();
    let answer = client.answer().await;
    assert!(!answer.complete);
    assert_eq!(answer.body, "line\n");
    within_limit(&mut feed.gone).await.unwrap_err();

    let edge = Running::start(config, service_fn(echo)).await;
    let mut client = edge.connect().await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
    }
}

const LENGTH: usize = 8_000_000;

/// An edge that has a complete response, and its client, which has read nothing. For the stack the
/// request is over, but the kernel has not accepted all bytes.
async fn answered(config: EdgeConfig) -> (Running, Client<TcpStream>) {
    let stack = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("x".repeat(LENGTH))))
    });
    let edge = Running::start(config, stack).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    while edge.gauges.finished() == 0 {
        tokio::task::yield_now().await;
    }
    (edge, client)
}

#[tokio::test]
async fn a_response_that_is_read_late_outlives_the_keep_alive_timeout() {
    let config = EdgeConfig {
        keep_alive_timeout: Duration::from_millis(50),
        ..loopback()
    };
    let (_edge, mut client) = answered(config).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client.answer().await.body.len(), LENGTH);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_response_that_is_read_late_outlives_the_timeout_of_the_next_head() {
    let config = EdgeConfig {
        header_timeout: Duration::from_millis(50),
        ..loopback()
    };
    let (_edge, mut client) = answered(config).await;
    client.send("GET /").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client.answer().await.body.len(), LENGTH);
}

#[tokio::test]
async fn a_broken_http_1_0_response_ends_unclean_even_if_its_request_was_not_read() {
    let edge = breaking().await;
    let mut client = edge.connect().await;
    client
        .send("POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
        .await;
    client.until("line\n").await;
    assert_ends_with_reset(&mut client).await;
}

#[tokio::test]
async fn a_stalled_http_1_0_client_gets_a_reset() {
    let (mut feed, body) = fed();
    let config = EdgeConfig {
        write_stall_timeout: Some(Duration::from_millis(200)),
        ..loopback()
    };
    let edge = streaming(config, body).await;
    let mut client = edge.connect().await;
    client
        .send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await;
    feed.send_large(1000);
    within_limit(&mut feed.gone).await.unwrap_err();
    assert_ends_with_reset(&mut client).await;
}

#[tokio::test]
async fn a_complete_http_1_0_response_ends_clean() {
    let (feed, body) = fed();
    let edge = streaming(loopback(), body).await;
    let mut client = edge.connect().await;
    client
        .send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await;
    feed.frames.send(Bytes::from("line\n")).unwrap();
    drop(feed.frames);
    let mut seen = String::new();
    let end = tokio::io::AsyncReadExt::read_to_string(&mut client.io, &mut seen);
    within_limit(end).await.unwrap();
    assert!(seen.ends_with("line\n"), "{seen:?}");
}

/// An edge whose responses break after their first line.
async fn breaking() -> Running {
    let stack = service_fn(|_: Request<RequestBody>| async {
        let broken = futures_util::stream::unfold(0, |step| async move {
            match step {
                0 => Some((Ok(Frame::data(Bytes::from("line\n"))), 1)),
                _ => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Some((Err(std::io::Error::other("broken")), 2))
                }
            }
        });
        Ok::<_, Infallible>(Response::new(StreamBody::new(broken)))
    });
    Running::start(loopback(), stack).await
}

#[tokio::test]
async fn a_broken_response_ends_unclean() {
    let edge = breaking().await;
    let answer = edge.ask(GET).await;
    assert_eq!((&*answer.body, answer.complete), ("line\n", false));
}

#[tokio::test]
async fn a_broken_http_1_0_response_ends_unclean_too() {
    let edge = breaking().await;
    let mut client = edge.connect().await;
    client
        .send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await;
    client.until("line\n").await;
    assert_ends_with_reset(&mut client).await;
}
