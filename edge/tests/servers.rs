//! Both wrappers round hyper, hyper-util and `axum::serve`, on real sockets.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use llamatower_edge::axum::{ClientListener, MakeConnectionService};
use llamatower_edge::{ClientSocket, ConnectionLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tower::{Layer, service_fn};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);
const REQUEST: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[derive(Clone, Copy, Debug)]
enum Server {
    Http1,
    Auto,
    Axum,
}

const SERVERS: [Server; 3] = [Server::Http1, Server::Auto, Server::Axum];

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Called,
    /// The body has given its error.
    Failed,
    /// The handler or its body was dropped.
    Dropped,
}

/// Sends [`Event::Dropped`] when it is dropped.
struct Alive(mpsc::UnboundedSender<Event>);

impl Drop for Alive {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Dropped);
    }
}

struct TestBody {
    lines: std::ops::Range<usize>,
    then: Then,
    alive: Alive,
}

#[derive(Clone, Copy)]
enum Then {
    Fail,
    Wait,
    End,
}

/// Much larger than the sockets' buffers, and smaller than hyper's.
fn line(number: usize) -> String {
    format!(
        "{{\"line\":{number},\"text\":\"{}\"}}\n",
        "x".repeat(16_000)
    )
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(number) = self.lines.next() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(line(number))))));
        }
        match self.then {
            Then::Fail => {
                let _ = self.alive.0.send(Event::Failed);
                Poll::Ready(Some(Err(io::Error::other("the backend has gone"))))
            }
            Then::Wait => Poll::Pending,
            Then::End => Poll::Ready(None),
        }
    }
}

async fn within_limit<F: Future>(future: F) -> F::Output {
    let limit = tokio::time::timeout(Duration::from_secs(20), future);
    limit.await.expect("what the test waits for did not happen")
}

struct Running {
    addr: SocketAddr,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Running {
    /// Starts a server whose handler gets an [`Alive`] for each request. The kernel's buffer of its
    /// sockets is small.
    async fn start<H, F>(server: Server, stall: Duration, handler: H) -> Self
    where
        H: Fn(Alive) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = TestBody> + Send + 'static,
    {
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_send_buffer_size(4096).unwrap();
        listener.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = listener.listen(16).unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let answer = move || {
            sender.send(Event::Called).unwrap();
            handler(Alive(sender.clone()))
        };
        match server {
            Server::Axum => {
                let answer = async move || Response::new(axum::body::Body::new(answer().await));
                let app = MakeConnectionService::new(Router::new().fallback(answer));
                let listener = ClientListener::new(listener, stall);
                tokio::spawn(axum::serve(listener, app).into_future());
            }
            _ => drop(tokio::spawn(serve(server, listener, stall, answer))),
        }
        Self { addr, events }
    }

    async fn event(&mut self) -> Event {
        within_limit(self.events.recv()).await.unwrap()
    }

    /// A client with a small receive window, which has sent this.
    async fn client(&self, text: &str) -> TcpStream {
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let mut client = client.connect(self.addr).await.unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        client
    }
}

async fn serve<H, F>(server: Server, listener: TcpListener, stall: Duration, answer: H)
where
    H: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = TestBody> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let socket = ClientSocket::new(stream, stall);
        let answer = answer.clone();
        let service = service_fn(move |_: Request<hyper::body::Incoming>| {
            let body = answer();
            async { Ok::<_, Infallible>(Response::new(body.await)) }
        });
        let service = ConnectionLayer::new(socket.state()).layer(service);
        let service = TowerToHyperService::new(service);
        let io = TokioIo::new(socket);
        match server {
            Server::Auto => drop(tokio::spawn(async move {
                let auto = auto::Builder::new(TokioExecutor::new());
                let _ = auto.serve_connection(io, service).await;
            })),
            _ => drop(tokio::spawn(
                http1::Builder::new().serve_connection(io, service),
            )),
        }
    }
}

/// Reads to the end in small pieces.
async fn read_slowly(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 1500];
    loop {
        match within_limit(client.read(&mut piece)).await.unwrap() {
            0 => return String::from_utf8(text).unwrap(),
            length => text.extend_from_slice(&piece[..length]),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_lines_before_an_error_reach_a_client_that_reads_slowly() {
    for (server, count) in SERVERS.into_iter().flat_map(|s| [(s, 0), (s, 1), (s, 12)]) {
        let handler = move |alive| async move {
            TestBody {
                lines: 0..count,
                then: Then::Fail,
                alive,
            }
        };
        let mut running = Running::start(server, LONG, handler).await;
        let mut client = running.client(REQUEST).await;
        assert_eq!(running.event().await, Event::Called);
        // The body waits for the client, and fails behind what is still in the buffers.
        let text = read_slowly(&mut client).await;
        assert_eq!(running.event().await, Event::Failed);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{server:?}");
        for number in 0..count {
            assert!(text.contains(&line(number)), "{server:?}: line {number}");
        }
        assert!(!text.ends_with("0\r\n\r\n"), "{server:?}: it is broken off");
        assert_eq!(running.event().await, Event::Dropped);
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_ends_its_request_after_the_limit() {
    let bodies = [(usize::MAX, Then::Wait), (12, Then::Wait), (12, Then::Fail)];
    for (server, (count, then)) in SERVERS.into_iter().flat_map(|s| bodies.map(|b| (s, b))) {
        let handler = move |alive| async move {
            TestBody {
                lines: 0..count,
                then,
                alive,
            }
        };
        let mut running = Running::start(server, SHORT, handler).await;
        let _client = running.client(REQUEST).await;
        assert_eq!(running.event().await, Event::Called);
        assert_eq!(running.event().await, Event::Dropped, "{server:?}");
    }
}

/// What the client sends with its request, and after it.
const PIPELINED: [(&str, &str); 5] = [
    ("", ""),
    ("G", ""),
    ("", "G"),
    (REQUEST, ""),
    (REQUEST, REQUEST),
];

#[tokio::test]
async fn a_client_that_goes_away_before_the_response_ends_the_handler() {
    for (server, (with, after)) in SERVERS
        .into_iter()
        .flat_map(|s| PIPELINED.map(|sent| (s, sent)))
    {
        let handler = |alive: Alive| async move {
            let _alive = alive;
            pending().await
        };
        let mut running = Running::start(server, LONG, handler).await;
        let mut client = running.client(&format!("{REQUEST}{with}")).await;
        assert_eq!(running.event().await, Event::Called);
        client.write_all(after.as_bytes()).await.unwrap();
        drop(client);
        let event = running.event().await;
        assert_eq!(event, Event::Dropped, "{server:?} {with:?} {after:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_during_the_response_ends_the_body() {
    for (server, (with, after)) in SERVERS
        .into_iter()
        .flat_map(|s| PIPELINED.map(|sent| (s, sent)))
    {
        let handler = |alive| async move {
            TestBody {
                lines: 0..1,
                then: Then::Wait,
                alive,
            }
        };
        let mut running = Running::start(server, LONG, handler).await;
        let mut client = running.client(&format!("{REQUEST}{with}")).await;
        let mut text = String::new();
        while !text.contains(&line(0)) {
            let mut piece = [0; 4096];
            let length = within_limit(client.read(&mut piece)).await.unwrap();
            text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
        }
        assert_eq!(running.event().await, Event::Called);
        client.write_all(after.as_bytes()).await.unwrap();
        drop(client);
        let event = running.event().await;
        assert_eq!(event, Event::Dropped, "{server:?} {with:?} {after:?}");
    }
}

#[tokio::test]
async fn pipelined_requests_that_were_read_ahead_are_answered() {
    for server in SERVERS {
        let go = Arc::new(Notify::new());
        let waiting = go.clone();
        let handler = move |alive| {
            let go = waiting.clone();
            async move {
                go.notified().await;
                TestBody {
                    lines: 0..1,
                    then: Then::End,
                    alive,
                }
            }
        };
        let mut running = Running::start(server, LONG, handler).await;
        let (first, second) = REQUEST.split_at(20);
        let mut client = running.client(&format!("{REQUEST}{first}")).await;
        assert_eq!(running.event().await, Event::Called);
        let last = REQUEST.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        let rest = format!("{second}{}", last.repeat(2));
        client.write_all(rest.as_bytes()).await.unwrap();
        let answering = async {
            for number in 0..3 {
                if number > 0 {
                    assert_eq!(running.event().await, Event::Called);
                }
                go.notify_one();
                assert_eq!(running.event().await, Event::Dropped);
            }
        };
        let (text, ()) = tokio::join!(read_slowly(&mut client), answering);
        assert_eq!(text.matches(&line(0)).count(), 3, "{server:?}");
    }
}
