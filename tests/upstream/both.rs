//! Tests of both clients.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use llamatower::ollama::upstream::{
    AnswerBroken, ConnectFailed, ConnectionLost, InvalidAnswer, Upstream,
};
use llamatower_layers::body::ReplayBody;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::{BoxError, Retryable};
use tower::{Layer, ServiceExt};

use crate::support::{HELLO, Leaf, ask, cause_of, pair, pair_with_token, request, text};

crate::for_both_leaves! {
    a_connection_whose_answer_was_read_serves_the_next_request
    trailers_come_after_the_data
    chunks_that_arrived_together_stay_separate
    a_body_that_is_dropped_closes_its_connection
    a_request_that_is_dropped_closes_its_connection
    a_silent_server_is_probed_by_tcp_keep_alive
    a_broken_response_never_ends_clean
    ambiguous_responses_are_refused
    a_head_of_64_kib_is_refused
    an_idle_connection_that_the_backend_closed_is_not_used_again
    a_connection_that_closes_before_it_answers_may_be_retried
    the_loss_of_a_reused_connection_has_its_own_kind
    a_request_that_is_sent_again_gets_a_new_connection
    a_refused_connection_names_the_backend
    an_early_response_to_a_large_request_is_read_and_its_connection_is_closed
    a_body_of_unknown_length_is_sent_in_chunks
    frames_are_passed_on_as_they_arrive
    a_request_is_sent_with_the_servers_prefix_and_token
    without_a_token_and_a_prefix_a_request_is_unchanged
    redirects_and_other_responses_are_passed_on
    a_request_body_is_sent_as_it_arrives
    the_error_of_a_request_body_is_returned
}

/// Whether this many idle connections are in the pool, if they are counted.
fn has_idle<B>(upstream: &Upstream<B>, expected: usize) -> bool
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    upstream
        .idle_connections()
        .is_none_or(|idle| idle == expected)
}

async fn a_connection_whose_answer_was_read_serves_the_next_request(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let served = tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.answer(HELLO).await;
        peer.answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .await;
        peer.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
        peer.answer(HELLO).await;
        peer
    });
    for expected in ["hello", "hi", "", "hello"] {
        assert_eq!(
            text(ask(&upstream).await.expect("an answer")).await,
            expected
        );
    }
    let _peer = served.await.expect("one connection served them all");
    assert!(has_idle(&upstream, 1));
}

async fn trailers_come_after_the_data(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";
        peer.answer(&format!("{chunked}0\r\nx-sum: 7\r\n\r\n"))
            .await;
    });
    let whole = ask(&upstream).await.expect("an answer").into_body();
    let whole = whole.collect().await.expect("a whole body");
    assert_eq!(whole.trailers().expect("trailers")["x-sum"], "7");
    assert_eq!(whole.to_bytes(), "hi");
}

pub(crate) async fn frames_of(leaf: Leaf, kind: &str) -> Vec<Bytes> {
    let (server, upstream) = pair(leaf).await;
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        let chunks = "2\r\na\n\r\n3\r\nbc\n\r\n0\r\n\r\n";
        peer.answer(&format!("{head}{chunks}")).await;
    });
    let mut body = ask(&upstream).await.expect("an answer").into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.expect("no error").into_data().expect("data"));
    }
    frames
}

async fn chunks_that_arrived_together_stay_separate(leaf: Leaf) {
    assert_eq!(frames_of(leaf, "text/event-stream").await, ["a\n", "bc\n"]);
}

async fn a_body_that_is_dropped_closes_its_connection(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let gone = tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
            .await;
        peer.is_closed().await
    });
    let mut body = ask(&upstream).await.expect("an answer").into_body();
    let first = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(first.into_data().expect("data"), "hi");
    drop(body);
    assert!(gone.await.expect("no panic"));
    assert!(has_idle(&upstream, 0));
}

async fn a_request_that_is_dropped_closes_its_connection(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let asking = tokio::spawn(async move { ask(&upstream).await });
    let mut peer = server.accept().await;
    peer.answer("").await;
    asking.abort();
    assert!(peer.is_closed().await);
}

/// TCP keep-alive detects a lost machine, although the idle time-out is long.
async fn a_silent_server_is_probed_by_tcp_keep_alive(leaf: Leaf) {
    if !cfg!(target_os = "linux") {
        return;
    }
    let (server, upstream) = pair(leaf).await;
    let port = server.port();
    let asking = tokio::spawn(async move { ask(&upstream).await });
    let mut peer = server.accept().await;
    peer.answer("").await;
    let probe = async {
        loop {
            // Before everything sent is acknowledged, another timer runs.
            match time_to_probe(port) {
                Some(time) => return time,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let probe = tokio::time::timeout(Duration::from_secs(10), probe).await;
    assert!(probe.expect("a keep-alive timer") <= Duration::from_secs(15));
    asking.abort();
}

/// Time until TCP's next keep-alive probe of the connection to this port.
fn time_to_probe(port: u16) -> Option<Duration> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux's table of sockets");
    let remote = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Established, with a timer of kind 2.
        let is_ours = fields[2].ends_with(&remote) && fields[3] == "01";
        let ticks = fields[5].strip_prefix("02:").filter(|_| is_ours)?;
        let ticks = u64::from_str_radix(ticks, 16).expect("hundredths of a second");
        Some(Duration::from_millis(10 * ticks))
    })
}

async fn a_broken_response_never_ends_clean(leaf: Leaf) {
    for broken in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi",
    ] {
        let (server, upstream) = pair(leaf).await;
        tokio::spawn(async move {
            let mut peer = server.accept().await;
            peer.answer(broken).await;
        });
        let body = ask(&upstream).await.expect("a head").into_body();
        let error = body.collect().await.expect_err("not the whole");
        assert!(
            cause_of(error).caused_by::<AnswerBroken>().is_some(),
            "{broken:?}"
        );
        assert!(has_idle(&upstream, 0));
    }
}

async fn ambiguous_responses_are_refused(leaf: Leaf) {
    for odd in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked;q=1\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked,\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "garbage\r\n\r\n",
    ] {
        let (server, upstream) = pair(leaf).await;
        tokio::spawn(async move {
            let mut peer = server.accept().await;
            peer.answer(odd).await;
            peer.is_closed().await
        });
        let error = ask(&upstream).await.expect_err(odd);
        let failure = cause_of(error);
        assert!(
            failure.caused_by::<InvalidAnswer>().is_some(),
            "{odd:?}: {failure}"
        );
        assert_eq!(failure.retryable(), Retryable::No);
        assert!(has_idle(&upstream, 0));
    }
}

async fn a_head_of_64_kib_is_refused(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
        peer.answer(&head).await;
    });
    assert!(ask(&upstream).await.is_err());
}

async fn an_idle_connection_that_the_backend_closed_is_not_used_again(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let (tells, closed) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.answer(HELLO).await;
        peer.close().await;
        assert!(peer.is_closed().await);
        tells.send(()).expect("the client waits");
        server.accept().await.answer(HELLO).await;
    });
    let first = ask(&upstream).await.expect("an answer");
    assert_eq!(text(first).await, "hello");
    let mut closed = closed;
    while closed.try_recv().is_err() {
        tokio::task::yield_now().await;
        upstream.prune();
    }
    assert!(has_idle(&upstream, 0));
    let second = ask(&upstream).await.expect("an answer");
    assert_eq!(text(second).await, "hello");
}

async fn a_connection_that_closes_before_it_answers_may_be_retried(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.answer("").await;
    });
    let failure = cause_of(ask(&upstream).await.expect_err("no answer"));
    assert!(failure.caused_by::<ConnectionLost>().is_some());
    assert_eq!(failure.retryable(), Retryable::Yes);
}

async fn the_loss_of_a_reused_connection_has_its_own_kind(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.answer(HELLO).await;
        peer.answer("").await;
        drop(peer);
        server.accept().await.answer("").await;
    });
    let first = ask(&upstream).await.expect("an answer");
    assert_eq!(text(first).await, "hello");
    until_idle().await;
    for expected in ["stale_connection", "connection_lost"] {
        let failure = cause_of(ask(&upstream).await.expect_err("no answer"));
        assert_eq!(failure.kind(), expected);
    }
}

/// Lets the tasks of reqwest's client, which run in this thread, return a connection to its pool.
async fn until_idle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn a_request_that_is_sent_again_gets_a_new_connection(leaf: Leaf) {
    const END: &str = "\r\n\r\n{}";
    type Sent = ReplayBody<Empty<Bytes>>;
    let (server, upstream) = pair::<Sent>(leaf).await;
    let request = || {
        let body = Sent::from(Bytes::from_static(b"{}"));
        Request::post("/api/chat").body(body).expect("a request")
    };
    let ask = async || {
        let answer = upstream.clone().oneshot(request()).await;
        let body = answer.expect("an answer").into_body().collect().await;
        body.expect("a whole body").to_bytes()
    };
    let serve = async {
        let (mut one, mut other) = (server.accept().await, server.accept().await);
        one.answer(HELLO).await;
        other.answer(HELLO).await;
        (one, other)
    };
    let (_, _, (mut one, mut other)) = tokio::join!(ask(), ask(), serve);
    until_idle().await;
    tokio::spawn(async move {
        let is_one = tokio::select! {
            _ = one.read_to(END) => true,
            _ = other.read_to(END) => false,
        };
        let (lost, mut idle) = if is_one { (one, other) } else { (other, one) };
        drop(lost);
        let new = async { server.accept().await.answer(HELLO).await };
        tokio::join!(idle.try_answer("HTTP/1.1 204 No Content\r\n\r\n"), new)
    });
    let retry = RetryLayer::new(RetryBudget::default()).with_replayable(|_, _| true);
    let answer = retry.layer(upstream.clone()).oneshot(request()).await;
    let body = answer.expect("an answer").into_body().collect().await;
    assert_eq!(body.expect("a whole body").to_bytes(), "hello");
}

async fn a_refused_connection_names_the_backend(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    drop(server);
    let failure = cause_of(ask(&upstream).await.expect_err("no process listens"));
    assert!(failure.caused_by::<ConnectFailed>().is_some());
    assert!(
        failure
            .to_string()
            .contains(&upstream.address().to_string())
    );
}

async fn an_early_response_to_a_large_request_is_read_and_its_connection_is_closed(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let served = tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.read_past("\r\n\r\n").await;
        peer.send(HELLO).await;
        peer
    });
    let large = Full::new(Bytes::from(vec![b'x'; 64 << 20]));
    let request = Request::post("/api/blobs/x")
        .body(large)
        .expect("a request");
    let answer = upstream
        .clone()
        .oneshot(request)
        .await
        .expect("an early answer");
    assert_eq!(text(answer).await, "hello");
    assert!(has_idle(&upstream, 0));
    let _peer = served.await.expect("no panic");
}

async fn a_body_of_unknown_length_is_sent_in_chunks(leaf: Leaf) {
    let large = "x".repeat(20_000);
    for pieces in [
        vec!["small", "", "more"],
        vec![&large],
        vec!["small", &large, &large, "end"],
    ] {
        let (server, upstream) = pair(leaf).await;
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from(piece.to_string()))))
            .collect();
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let served = tokio::spawn(async move {
            let mut peer = server.accept().await;
            let seen = peer.read_to("\r\n0\r\n\r\n").await;
            peer.send(HELLO).await;
            seen
        });
        let request = Request::post("/").body(body).expect("a request");
        upstream.oneshot(request).await.expect("an answer");
        let seen = served.await.expect("no panic");
        let (head, sent) = seen.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let chunk = |piece: &&str| match piece.len() {
            0 => String::new(),
            length => format!("{length:X}\r\n{piece}\r\n"),
        };
        let expected: String = pieces.iter().map(chunk).collect();
        assert!(
            sent == format!("{expected}0\r\n\r\n"),
            "{} bytes",
            sent.len()
        );
    }
}

async fn frames_are_passed_on_as_they_arrive(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let (go_on, mut gone_on) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        for line in ["2\r\na\n\r\n", "2\r\nb\n\r\n", "0\r\n\r\n"] {
            peer.send(line).await;
            gone_on.recv().await;
        }
    });
    let mut body = ask(&upstream).await.expect("a head").into_body();
    for expected in ["a\n", "b\n"] {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await;
        let frame = frame
            .expect("before the next is sent")
            .expect("a frame")
            .expect("no error");
        assert_eq!(frame.into_data().expect("data"), expected);
        go_on.send(()).await.expect("the server waits");
    }
    assert!(body.frame().await.is_none());
}

async fn a_request_is_sent_with_the_servers_prefix_and_token(leaf: Leaf) {
    let (server, upstream) = pair_with_token(leaf, "basic ada:hunter2").await;
    let authority = format!("host: 127.0.0.1:{}\r\n", server.port());
    let served = tokio::spawn(async move { server.accept().await.answer(HELLO).await });
    let mut request = request();
    let of_a_client = "Bearer of-a-client".parse().expect("a value");
    request.headers_mut().insert("authorization", of_a_client);
    let answer = upstream.clone().oneshot(request).await;
    assert_eq!(text(answer.expect("an answer")).await, "hello");
    let seen = served.await.expect("no panic");
    assert!(
        seen.starts_with("POST /ollama/api/chat HTTP/1.1\r\n"),
        "{seen}"
    );
    assert!(seen.contains(&authority), "{seen}");
    assert!(
        seen.contains("authorization: Basic YWRhOmh1bnRlcjI=\r\n"),
        "{seen}"
    );
    assert!(!seen.contains("of-a-client"), "{seen}");
    assert!(!format!("{upstream:?}").contains("YWRh"), "{upstream:?}");
}

async fn without_a_token_and_a_prefix_a_request_is_unchanged(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let served = tokio::spawn(async move { server.accept().await.answer(HELLO).await });
    let answer = ask(&upstream).await.expect("an answer");
    assert_eq!(text(answer).await, "hello");
    let seen = served.await.expect("no panic");
    assert!(seen.starts_with("POST /api/chat HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("content-length: 2\r\n"), "{seen}");
    for name in [
        "authorization",
        "accept-encoding",
        "user-agent",
        "transfer-encoding",
    ] {
        assert!(!seen.contains(name), "{seen}");
    }
}

async fn redirects_and_other_responses_are_passed_on(leaf: Leaf) {
    for (head, status) in [
        ("307 Temporary Redirect\r\nlocation: /elsewhere", 307),
        ("401 Unauthorized\r\nwww-authenticate: Basic", 401),
        ("503 Service Unavailable\r\nretry-after: 1", 503),
        ("200 OK\r\ncontent-encoding: gzip", 200),
    ] {
        let (server, upstream) = pair(leaf).await;
        tokio::spawn(async move {
            let mut peer = server.accept().await;
            let head = format!("HTTP/1.1 {head}\r\ncontent-length: 5\r\n\r\nhello");
            peer.answer(&head).await;
            peer.is_closed().await
        });
        let answer = ask(&upstream).await.expect("an answer");
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-length"], "5");
        assert_eq!(text(answer).await, "hello");
    }
}

async fn a_request_body_is_sent_as_it_arrives(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let (go_on, gone_on) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.read_to("\r\n\r\n5\r\nfirst\r\n").await;
        go_on.send(()).expect("the body waits");
        peer.read_to("6\r\nsecond\r\n0\r\n\r\n").await;
        peer.send(HELLO).await;
    });
    let first = futures_util::stream::iter(["first"]);
    let second = futures_util::stream::once(async {
        gone_on.await.expect("the server has the first");
        "second"
    });
    let frame = |piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece)));
    let pieces = first.chain(second).map(str::as_bytes).map(frame);
    let body = http_body_util::StreamBody::new(pieces);
    let request = Request::post("/").body(body).expect("a request");
    let answer = tokio::time::timeout(Duration::from_secs(5), upstream.oneshot(request)).await;
    assert_eq!(answer.expect("in time").expect("an answer").status(), 200);
}

#[derive(Debug, thiserror::Error)]
#[error("the client sent too much")]
struct TooMuch;

async fn the_error_of_a_request_body_is_returned(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.is_closed().await
    });
    let fails = futures_util::stream::iter([Err::<Frame<Bytes>, BoxError>(TooMuch.into())]);
    let body = http_body_util::StreamBody::new(fails);
    let request = Request::post("/").body(body).expect("a request");
    let error = upstream.oneshot(request).await.expect_err("no request");
    let causes = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| {
        error.source()
    });
    let mut causes = causes.skip_while(|cause| !cause.is::<TooMuch>());
    assert!(causes.next().is_some(), "{error:?}");
}
