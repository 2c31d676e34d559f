//! Tests of the plain-HTTP client only.

use std::future::{Future, poll_fn};
use std::io::Write;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt;
use llamatower::ollama::upstream::{ConnectFailed, Upstream};
use llamatower_layers::BoxError;
use tower::ServiceExt;

use crate::both::frames_of;
use crate::support::{HELLO, Leaf, ask, cause_of, pair, text};

#[tokio::test]
async fn lines_that_arrived_together_are_one_frame() {
    assert_eq!(
        frames_of(Leaf::Plain, "application/x-ndjson").await,
        ["a\nbc\n"]
    );
}

/// A client that reads slowly holds what was joined.
#[tokio::test]
async fn lines_that_arrived_together_are_joined_up_to_a_limit() {
    let line = format!("{}\n", "x".repeat(999));
    let (server, upstream) = pair(Leaf::Plain).await;
    let chunks = format!("3e8\r\n{line}\r\n").repeat(100);
    let head = "content-type: application/x-ndjson\r\ntransfer-encoding: chunked";
    let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{chunks}0\r\n\r\n");
    tokio::spawn(async move { server.accept().await.answer(&answer).await });
    let mut body = ask(&upstream).await.expect("an answer").into_body();
    let (mut longest, mut all) = (0, String::new());
    while let Some(frame) = body.frame().await {
        let data = frame.expect("no error").into_data().expect("data");
        longest = longest.max(data.len());
        all += std::str::from_utf8(&data).expect("text");
    }
    assert_eq!(all, line.repeat(100));
    assert!((2 * line.len()..=8 * 1024).contains(&longest), "{longest}");
}

/// A waker that can be counted.
struct Counted(Waker);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.wake_by_ref();
    }
}

/// It would keep the memory of that task, several thousand bytes, for each idle connection.
#[tokio::test]
async fn an_idle_connection_does_not_keep_the_task_of_its_last_request() {
    let (server, upstream) = pair(Leaf::Plain).await;
    let serve = async {
        let mut peer = server.accept().await;
        peer.answer(HELLO).await;
        peer
    };
    let task = poll_fn(|cx| Poll::Ready(Arc::new(Counted(cx.waker().clone())))).await;
    let waker = Waker::from(task.clone());
    let mut asked = pin!(async { text(ask(&upstream).await.expect("an answer")).await });
    let asked = poll_fn(|_| asked.as_mut().poll(&mut Context::from_waker(&waker)));
    let (answer, _peer) = tokio::join!(asked, serve);
    assert_eq!(answer, "hello");
    assert_eq!(upstream.idle_connections(), Some(1));
    drop(waker);
    assert_eq!(Arc::strong_count(&task), 1);
}

/// Sends one piece at once, and the other after the server has closed, before the runtime is
/// notified.
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
async fn an_early_response_is_read_although_writing_failed_first() {
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
    assert_eq!(upstream.idle_connections(), Some(0));
}

/// An empty body. It is polled when its request was put on a pooled connection, and then waits
/// until the server has reset that connection.
fn sent_on_a_dead_connection(
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
async fn an_unsent_request_uses_another_connection() {
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
    let none = Request::post("/").body(sent_on_a_dead_connection(None));
    let answer = upstream.clone().oneshot(none.expect("a request")).await;
    let body = answer.expect("an answer").into_body();
    assert_eq!(body.collect().await.expect("all of it").to_bytes(), "hello");
    assert_eq!(upstream.idle_connections(), Some(1));

    asks.send(()).expect("the server waits");
    let again = Request::post("/").body(sent_on_a_dead_connection(Some(is_reset)));
    let answer = upstream.clone().oneshot(again.expect("a request")).await;
    let body = answer.expect("the second connection's").into_body();
    assert_eq!(body.collect().await.expect("all of it").to_bytes(), "hello");
}

#[tokio::test]
async fn a_failed_replacement_of_a_dead_connection_is_a_connect_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (asks, asked) = std::sync::mpsc::channel();
    let (resets, is_reset) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a connection");
        let length = std::io::Read::read(&mut peer, &mut [0; 4096]).expect("a request");
        assert!(length > 0);
        peer.write_all(HELLO.as_bytes()).expect("the client reads");
        let () = asked.recv().expect("the client asks again");
        drop(listener);
        let socket = socket2::SockRef::from(&peer);
        socket.set_linger(Some(Duration::ZERO)).expect("a reset");
        drop(peer);
        resets.send(()).expect("the client waits");
    });
    let upstream = Upstream::new(address.parse().expect("an address"));
    let none = Request::post("/").body(sent_on_a_dead_connection(None));
    let answer = upstream.clone().oneshot(none.expect("a request")).await;
    let body = answer.expect("an answer").into_body();
    assert_eq!(body.collect().await.expect("all of it").to_bytes(), "hello");

    asks.send(()).expect("the server waits");
    let again = Request::post("/").body(sent_on_a_dead_connection(Some(is_reset)));
    let failed = upstream.clone().oneshot(again.expect("a request")).await;
    let failure = cause_of(failed.err().expect("no process listens"));
    assert!(failure.caused_by::<ConnectFailed>().is_some(), "{failure}");
    assert_eq!(upstream.idle_connections(), Some(0));
}

/// Uses up tokio's budget of this turn, so that all sockets seem pending.
async fn spend_the_budget() {
    poll_fn(|cx| {
        while pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn a_closed_connection_is_not_used_by_a_task_without_budget() {
    let (server, upstream) = pair(Leaf::Plain).await;
    let serve = async {
        let mut peer = server.accept().await;
        peer.answer(HELLO).await;
        peer
    };
    let (answer, peer) = tokio::join!(ask(&upstream), serve);
    assert_eq!(text(answer.expect("an answer")).await, "hello");
    drop(peer);
    // The runtime polls its sockets regularly and notices the end.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let asked = async {
        let mut asked = pin!(ask(&upstream));
        spend_the_budget().await;
        // In the same turn.
        let first = poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx))).await;
        assert!(first.is_pending());
        asked.await
    };
    let serve = async {
        let mut peer = server.accept().await;
        peer.answer(HELLO).await;
    };
    let both = async { tokio::join!(asked, serve).0 };
    let answer = tokio::time::timeout(Duration::from_secs(5), both).await;
    let answer = answer.expect("no hang").expect("an answer");
    assert_eq!(text(answer).await, "hello");
}

/// hyper would send such a server a body of unknown length as an empty one.
#[tokio::test]
async fn a_connection_of_http_1_0_is_not_used_again() {
    let (server, upstream) = pair(Leaf::Plain).await;
    let serve = async {
        let mut peers = Vec::new();
        for _ in 0..2 {
            let mut peer = server.accept().await;
            peer.answer(
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
            )
            .await;
            peers.push(peer);
        }
        peers
    };
    let asked = async {
        for _ in 0..2 {
            let answer = ask(&upstream).await.expect("an answer");
            assert_eq!(text(answer).await, "hello");
        }
    };
    let both = async { tokio::join!(asked, serve) };
    let both = tokio::time::timeout(Duration::from_secs(5), both).await;
    both.expect("a second connection");
}
