use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use llamatower::edge::{Drained, Edge, EdgeConfig, ListenAddr, RequestBody, Shutdown};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tower::service_fn;

use crate::support::{
    Client, FedBody, Feed, Running, TIME_LIMIT, echo, fed, loopback, within_limit,
};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// `/stream` is fed by the test; other paths get a response at once.
async fn edge(config: EdgeConfig) -> (Running, Feed) {
    let (feed, body) = fed();
    let body = Arc::new(Mutex::new(Some(body)));
    let stack = service_fn(move |request: Request<RequestBody>| {
        let body: Either<Full<Bytes>, FedBody> = match request.uri().path() {
            "/stream" => Either::Right(body.lock().unwrap().take().unwrap()),
            _ => Either::Left(Full::from("text")),
        };
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    (Running::start(config, stack).await, feed)
}

async fn is_refused(edge: &Running) -> bool {
    let start = Instant::now();
    while start.elapsed() < TIME_LIMIT {
        if TcpStream::connect(edge.addr).await.is_err() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

#[tokio::test]
async fn a_drain_first_announces_itself_and_then_finishes_requests_in_flight() {
    let (edge, feed) = edge(EdgeConfig {
        drain_delay: Duration::from_millis(400),
        ..loopback()
    })
    .await;
    let mut idle = edge.connect().await;
    idle.send(get("/")).await;
    let before = idle.answer().await;
    assert_eq!(before.header("connection"), None);
    let mut stream = edge.connect().await;
    stream.send(get("/stream")).await;
    feed.frames.send(Bytes::from("first\n")).unwrap();
    stream.until("first\n").await;

    edge.shutdown.drain();
    while !edge.gauges.is_draining() {
        tokio::task::yield_now().await;
    }
    // During the drain delay, new connections are served with `Connection: close`.
    let health = edge.ask(&get("/health")).await;
    assert_eq!(
        (health.status, &*health.body),
        (503, "{\"status\":\"draining\"}\n")
    );
    let mut new = edge.connect().await;
    new.send(get("/")).await;
    let answer = new.answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(new.is_closed().await);

    // Then idle connections are closed. While the stream continues, new connections are still
    // served.
    assert!(idle.is_closed().await);
    let mut late = edge.connect().await;
    late.send(get("/")).await;
    assert_eq!(late.answer().await.status, 200);
    feed.frames.send(Bytes::from("last\n")).unwrap();
    drop(feed.frames);
    stream.until("last\n").await;
    assert!(stream.rest().await.ends_with("0\r\n\r\n"));
    assert!(is_refused(&edge).await);
    assert_eq!(
        edge.drained().await,
        Drained {
            completed: 3,
            cut: 0
        }
    );
}

#[tokio::test]
async fn at_the_end_of_the_drain_streams_write_their_last_frame() {
    let (edge, feed) = edge(EdgeConfig {
        drain_timeout: Duration::from_millis(100),
        ..loopback()
    })
    .await;
    let mut stream = edge.connect().await;
    stream.send(get("/stream")).await;
    stream.until("\r\n\r\n").await;
    let cutoff = edge.cutoff.clone();
    let ending = tokio::spawn(async move {
        cutoff.cancelled().await;
        feed.frames
            .send(Bytes::from("{\"error\":\"drained\"}\n"))
            .unwrap();
    });
    edge.shutdown.drain();
    within_limit(ending).await.unwrap();
    let rest = stream.rest().await;
    assert!(rest.contains("drained"), "{rest}");
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    assert_eq!(
        edge.drained().await,
        Drained {
            completed: 0,
            cut: 1
        }
    );
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_dropped() {
    let (edge, mut feed) = edge(EdgeConfig {
        drain_timeout: Duration::from_millis(50),
        ..loopback()
    })
    .await;
    let mut stream = edge.connect().await;
    stream.send(get("/stream")).await;
    stream.until("\r\n\r\n").await;
    edge.shutdown.drain();
    within_limit(&mut feed.gone).await.unwrap_err();
    assert_eq!(
        edge.drained().await,
        Drained {
            completed: 0,
            cut: 1
        }
    );
    assert_eq!(stream.rest().await, "");
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    for delay in [Duration::from_secs(60), Duration::ZERO] {
        let (edge, mut feed) = edge(EdgeConfig {
            drain_delay: delay,
            drain_timeout: Duration::from_secs(60),
            ..loopback()
        })
        .await;
        let mut stream = edge.connect().await;
        stream.send(get("/stream")).await;
        stream.until("\r\n\r\n").await;
        edge.shutdown.drain();
        while !edge.gauges.is_draining() {
            tokio::task::yield_now().await;
        }
        edge.shutdown.end_now();
        within_limit(&mut feed.gone).await.unwrap_err();
        assert_eq!(edge.drained().await.cut, 1);
    }
}

#[tokio::test]
async fn an_edge_with_nothing_to_do_drains_at_once() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    let _unused = edge.connect().await;
    edge.shutdown.drain();
    let nothing = Drained {
        completed: 0,
        cut: 0,
    };
    assert_eq!(edge.drained().await, nothing);
}

/// Runs the test below in a separate process and sends it signals.
#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends() {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "drain::until_signalled",
        ])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let id = child.id().unwrap().to_string();
    for (awaited, signal) in [("serving", "-TERM"), ("draining", "-INT")] {
        while within_limit(told.next_line()).await.unwrap().as_deref() != Some(awaited) {}
        let kill = tokio::process::Command::new("kill")
            .args([signal, &id])
            .status();
        assert!(kill.await.unwrap().success());
    }
    assert!(within_limit(child.wait()).await.unwrap().success());
}

#[tokio::test]
#[ignore = "run in a process of its own by the test above"]
async fn until_signalled() {
    let (_feed, body) = fed();
    let body = Arc::new(Mutex::new(Some(body)));
    let stack = service_fn(move |_: Request<RequestBody>| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let edge = Edge::bind(loopback()).await.unwrap();
    let ListenAddr::Tcp(addr) = edge.local_addrs().remove(0) else {
        unreachable!()
    };
    let shutdown = Shutdown::on_signals().unwrap();
    let draining = shutdown.clone();
    let serving = tokio::spawn(edge.serve(stack, shutdown));
    let mut stream = Client::new(TcpStream::connect(addr).await.unwrap());
    stream.send(get("/stream")).await;
    stream.until("\r\n\r\n").await;
    println!("\nserving");
    draining.draining().await;
    println!("draining");
    assert_eq!(within_limit(serving).await.unwrap().cut, 1);
}
