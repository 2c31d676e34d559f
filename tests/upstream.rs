//! The upstream leaf against scripted servers on real sockets.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use llamatower::ollama::upstream::{
    AnswerBroken, ConnectFailed, ConnectionLost, InvalidAnswer, Upstream, UpstreamBody,
};
use llamatower_layers::{BoxError, Failure, Retryable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

type Answer = http::Response<UpstreamBody<Full<Bytes>>>;

async fn server<B: http_body::Body + 'static>() -> (TcpListener, Upstream<B>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    (
        listener,
        Upstream::new(address.parse().expect("an address")),
    )
}

fn request() -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from_static(b"{}"));
    Request::post("/api/chat").body(body).expect("a request")
}

async fn ask(upstream: &Upstream<Full<Bytes>>) -> Result<Answer, BoxError> {
    upstream.clone().oneshot(request()).await
}

/// Reads one request of two bytes of body and answers with `answer`.
async fn answer(peer: &mut TcpStream, answer: &str) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n{}") {
        assert_ne!(
            peer.read_buf(&mut seen).await.expect("a request"),
            0,
            "the client left"
        );
    }
    peer.write_all(answer.as_bytes())
        .await
        .expect("the client reads");
}

async fn text(answer: Answer) -> Bytes {
    answer
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes()
}

fn cause_of(error: BoxError) -> Failure {
    *error
        .downcast::<Failure>()
        .expect("a failure with a meaning")
}

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_connection_whose_answer_was_read_serves_the_next_request() {
    let (listener, upstream) = server().await;
    let served = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        answer(&mut peer, HELLO).await;
        answer(
            &mut peer,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        )
        .await;
        answer(&mut peer, "HTTP/1.1 204 No Content\r\n\r\n").await;
        answer(&mut peer, HELLO).await;
        peer
    });
    for expected in ["hello", "hi", "", "hello"] {
        assert_eq!(
            text(ask(&upstream).await.expect("an answer")).await,
            expected
        );
    }
    let _peer = served.await.expect("one connection served them all");
    assert_eq!(upstream.idle_connections(), 1);
}

#[tokio::test]
async fn trailers_come_after_the_data() {
    let (listener, upstream) = server().await;
    tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n";
        answer(&mut peer, &format!("{chunked}0\r\nx-sum: 7\r\n\r\n")).await;
    });
    let whole = ask(&upstream).await.expect("an answer").into_body();
    let whole = whole.collect().await.expect("a whole body");
    assert_eq!(whole.trailers().expect("trailers")["x-sum"], "7");
    assert_eq!(whole.to_bytes(), "hi");
}

async fn frames_of(kind: &str) -> Vec<Bytes> {
    let (listener, upstream) = server().await;
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        let chunks = "2\r\na\n\r\n3\r\nbc\n\r\n0\r\n\r\n";
        answer(&mut peer, &format!("{head}{chunks}")).await;
    });
    let mut body = ask(&upstream).await.expect("an answer").into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.expect("no error").into_data().expect("data"));
    }
    frames
}

#[tokio::test]
async fn chunks_that_came_together_stay_apart() {
    assert_eq!(frames_of("text/event-stream").await, ["a\n", "bc\n"]);
}

#[tokio::test]
async fn lines_that_came_together_are_one_frame() {
    assert_eq!(frames_of("application/x-ndjson").await, ["a\nbc\n"]);
}

#[tokio::test]
async fn a_body_that_is_dropped_closes_its_connection() {
    let (listener, upstream) = server().await;
    let gone = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        answer(
            &mut peer,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        )
        .await;
        peer.read(&mut [0]).await
    });
    let mut body = ask(&upstream).await.expect("an answer").into_body();
    let first = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(first.into_data().expect("data"), "hi");
    drop(body);
    assert!(matches!(gone.await.expect("no panic"), Ok(0) | Err(_)));
    assert_eq!(upstream.idle_connections(), 0);
}

#[tokio::test]
async fn a_request_that_is_dropped_closes_its_connection() {
    let (listener, upstream) = server().await;
    let asking = tokio::spawn(async move { ask(&upstream).await });
    let (mut peer, _) = listener.accept().await.expect("a connection");
    answer(&mut peer, "").await;
    asking.abort();
    assert!(matches!(peer.read(&mut [0]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_a_clean_end() {
    for broken in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi",
    ] {
        let (listener, upstream) = server().await;
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            answer(&mut peer, broken).await;
        });
        let body = ask(&upstream).await.expect("a head").into_body();
        let error = body.collect().await.expect_err("not the whole");
        assert!(
            cause_of(error).caused_by::<AnswerBroken>().is_some(),
            "{broken:?}"
        );
        assert_eq!(upstream.idle_connections(), 0);
    }
}

#[tokio::test]
async fn answers_that_two_readers_could_take_differently_are_refused() {
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
        let (listener, upstream) = server().await;
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            answer(&mut peer, odd).await;
            let _ = peer.read(&mut [0]).await;
        });
        let error = ask(&upstream).await.expect_err(odd);
        let failure = cause_of(error);
        assert!(
            failure.caused_by::<InvalidAnswer>().is_some(),
            "{odd:?}: {failure}"
        );
        assert_eq!(failure.retryable(), Retryable::No);
        assert_eq!(upstream.idle_connections(), 0);
    }
}

#[tokio::test]
async fn a_head_of_64_kib_is_refused() {
    let (listener, upstream) = server().await;
    tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
        answer(&mut peer, &head).await;
    });
    assert!(ask(&upstream).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_closed_is_not_used_again() {
    let (listener, upstream) = server().await;
    tokio::spawn(async move {
        for _ in 0..2 {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            answer(&mut peer, HELLO).await;
        }
    });
    assert_eq!(
        text(ask(&upstream).await.expect("an answer")).await,
        "hello"
    );
    while upstream.idle_connections() > 0 {
        tokio::task::yield_now().await;
        upstream.prune();
    }
    assert_eq!(
        text(ask(&upstream).await.expect("an answer")).await,
        "hello"
    );
}

#[tokio::test]
async fn a_connection_that_closes_before_it_answers_may_be_retried() {
    let (listener, upstream) = server().await;
    tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        answer(&mut peer, "").await;
    });
    let failure = cause_of(ask(&upstream).await.expect_err("no answer"));
    assert!(failure.caused_by::<ConnectionLost>().is_some());
    assert_eq!(failure.retryable(), Retryable::Yes);
}

#[tokio::test]
async fn a_refused_connection_names_the_backend() {
    let (listener, upstream) = server().await;
    drop(listener);
    let failure = cause_of(ask(&upstream).await.expect_err("nobody listens"));
    assert!(failure.caused_by::<ConnectFailed>().is_some());
    assert!(
        failure
            .to_string()
            .contains(&upstream.address().to_string())
    );
}

#[tokio::test]
async fn an_early_answer_to_a_large_request_is_seen_and_its_connection_is_not_kept() {
    let (listener, upstream) = server().await;
    let served = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        let mut head = [0; 64];
        peer.read_exact(&mut head).await.expect("a head");
        peer.write_all(HELLO.as_bytes())
            .await
            .expect("the client reads");
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
    assert_eq!(upstream.idle_connections(), 0);
    let _peer = served.await.expect("no panic");
}

/// One piece at once, the other when the server has closed, which the runtime is not told before.
struct LateBody {
    closed: std::sync::mpsc::Receiver<()>,
    polls: usize,
}

impl http_body::Body for LateBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.polls += 1;
        match self.polls {
            1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"early"))))),
            2 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            3 => {
                self.closed.recv().expect("the server closes");
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"late")))))
            }
            _ => Poll::Ready(None),
        }
    }
}

#[tokio::test]
async fn an_early_answer_is_seen_though_writing_fails_first() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (closes, closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a connection");
        peer.peek(&mut [0]).expect("a request");
        peer.write_all(HELLO.as_bytes()).expect("the client reads");
        drop(peer); // With what it has not read, which resets the connection.
        closes.send(()).expect("the client waits");
    });
    let upstream = Upstream::new(address.parse().expect("an address"));
    let request = Request::post("/api/blobs/x").body(LateBody { closed, polls: 0 });
    let answer = upstream.clone().oneshot(request.expect("a request")).await;
    let body = answer.expect("the early answer").into_body();
    assert_eq!(body.collect().await.expect("all of it").to_bytes(), "hello");
    assert_eq!(upstream.idle_connections(), 0);
}

/// No body. It is asked for when its request was put on a connection from the pool, and then waits
/// until the server has reset that.
fn asked_on_a_dead_connection(
    mut is_reset: Option<std::sync::mpsc::Receiver<()>>,
) -> impl http_body::Body<Data = Bytes, Error = BoxError> {
    let frames = futures_util::stream::poll_fn(move |cx| {
        let Some(is_reset) = is_reset.take() else {
            return Poll::Ready(None::<Result<Frame<Bytes>, BoxError>>);
        };
        is_reset.recv().expect("the server resets");
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    http_body_util::StreamBody::new(frames)
}

#[tokio::test]
async fn a_request_of_which_no_byte_has_left_goes_over_another_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (asks, asked) = std::sync::mpsc::channel();
    let (resets, is_reset) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let serve = || {
            let (mut peer, _) = listener.accept().expect("a connection");
            let mut seen = [0; 4096];
            let length = std::io::Read::read(&mut peer, &mut seen).expect("a request");
            peer.write_all(HELLO.as_bytes()).expect("the client reads");
            assert!(seen[..length].starts_with(b"POST"));
            peer
        };
        let first = serve();
        let () = asked.recv().expect("the client asks again");
        let socket = socket2::SockRef::from(&first);
        socket.set_linger(Some(Duration::ZERO)).expect("a reset");
        drop(first);
        resets.send(()).expect("the client waits");
        serve();
    });
    let upstream = Upstream::new(address.parse().expect("an address"));
    let none = Request::post("/").body(asked_on_a_dead_connection(None));
    let answer = upstream.clone().oneshot(none.expect("a request")).await;
    let body = answer.expect("an answer").into_body();
    assert_eq!(body.collect().await.expect("all of it").to_bytes(), "hello");
    assert_eq!(upstream.idle_connections(), 1);

    asks.send(()).expect("the server waits");
    let again = Request::post("/").body(asked_on_a_dead_connection(Some(is_reset)));
    let answer = upstream.clone().oneshot(again.expect("a request")).await;
    let body = answer.expect("the second connection's").into_body();
    assert_eq!(body.collect().await.expect("all of it").to_bytes(), "hello");
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_out_in_chunks() {
    let large = "x".repeat(20_000);
    for pieces in [
        vec!["small", "", "more"],
        vec![&large],
        vec!["small", &large, &large, "end"],
    ] {
        let (listener, upstream) = server().await;
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from(piece.to_string()))))
            .collect();
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let served = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n0\r\n\r\n") {
                assert_ne!(peer.read_buf(&mut seen).await.expect("a request"), 0);
            }
            peer.write_all(HELLO.as_bytes())
                .await
                .expect("the client reads");
            String::from_utf8(seen).expect("text")
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

#[tokio::test]
async fn frames_are_passed_on_as_they_come() {
    let (listener, upstream) = server().await;
    let (go_on, mut gone_on) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        answer(
            &mut peer,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await;
        for line in ["2\r\na\n\r\n", "2\r\nb\n\r\n", "0\r\n\r\n"] {
            peer.write_all(line.as_bytes())
                .await
                .expect("the client reads");
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
