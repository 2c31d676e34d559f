//! Requests that must not be sent twice, over both clients.

use http::Method;
use http_body_util::BodyExt;
use llamatower::ollama::upstream::ConnectionLost;
use tower::ServiceExt;

use crate::support::{ACCESS, HELLO, Leaf, Server, ask, cause_of, pair, routed, text, upstream};

crate::for_both_leaves! {
    management_never_uses_a_connection_that_the_backend_has_just_closed
    management_that_was_written_is_not_sent_again
    inference_still_shares_connections_after_management
}

/// Management requests, which must not be sent twice.
fn management() -> [(Method, &'static str); 4] {
    [
        (Method::DELETE, "/api/delete"),
        (Method::POST, "/api/copy"),
        (Method::POST, "/api/pull"),
        (Method::HEAD, "/api/blobs/sha256:00"),
    ]
}

/// A short response on a connection that is not reused.
const LAST_HELLO: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";

/// The server closes a pooled connection, and the next request arrives before the runtime is
/// notified.
async fn management_never_uses_a_connection_that_the_backend_has_just_closed(leaf: Leaf) {
    let (starts, started) = std::sync::mpsc::channel();
    let (asks, asked) = std::sync::mpsc::channel::<()>();
    let (closes, closed) = std::sync::mpsc::channel();
    // A separate runtime, because the client's runtime must not run meanwhile.
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = Server::start(leaf).await;
            starts.send(server.address()).expect("the client waits");
            loop {
                let mut peer = server.accept().await;
                peer.answer(HELLO).await;
                let Ok(()) = asked.recv() else { return };
                peer.close().await;
                drop(peer);
                closes.send(()).expect("the client waits");
                let mut peer = server.accept().await;
                peer.answer(LAST_HELLO).await;
            }
        });
    });
    let upstream = upstream(started.recv().expect("it starts"), &ACCESS);
    for (method, path) in management().iter().cycle().take(40) {
        let answer = ask(&upstream).await.expect("an answer");
        assert_eq!(text(answer).await, "hello");
        asks.send(()).expect("the server waits");
        closed.recv().expect("it closes");
        let answer = upstream.clone().oneshot(routed(method.clone(), path)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert_eq!(answer.status(), 200);
        let _ = answer.into_body().collect().await;
    }
}

async fn management_that_was_written_is_not_sent_again(leaf: Leaf) {
    for (method, path) in management() {
        let (server, upstream) = pair(leaf).await;
        let (counts, mut counted) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let mut peer = server.accept().await;
                peer.read_to("\r\n\r\n{}").await;
                counts.send(()).expect("the test waits");
                peer.close().await;
            }
        });
        let request = routed(method.clone(), path);
        let failure = upstream.clone().oneshot(request).await;
        let failure = cause_of(failure.expect_err("no answer"));
        assert!(failure.caused_by::<ConnectionLost>().is_some(), "{failure}");
        // A second request would arrive before this one.
        let _ = upstream.oneshot(routed(method, path)).await;
        counted.recv().await.expect("the first");
        counted.recv().await.expect("the second");
        assert!(counted.try_recv().is_err(), "{path} was sent again");
    }
}

async fn inference_still_shares_connections_after_management(leaf: Leaf) {
    let (server, upstream) = pair(leaf).await;
    let (accepts, mut accepted) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let mut peer = server.accept().await;
            accepts.send(()).expect("the test waits");
            tokio::spawn(async move { while peer.try_answer(HELLO).await {} });
        }
    });
    let chat = || routed(Method::POST, "/api/chat");
    let copy = || routed(Method::POST, "/api/copy");
    for request in [chat(), chat(), copy(), chat(), copy(), chat()] {
        let answer = upstream.clone().oneshot(request).await.expect("an answer");
        assert_eq!(text(answer).await, "hello");
    }
    let connections = std::iter::from_fn(|| accepted.try_recv().ok()).count();
    assert_eq!(connections, 3, "one for chats, one for each copy");
}
