//! The memory of idle connections, and of answers that are translated.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::ready;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use allocation_counter::AllocationInfo;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{Empty, Full, StreamBody};
use llamatower::edge::{Edge, EdgeConfig, Gauges, ListenAddr, RequestBody, Shutdown};
use llamatower::openai::{Server, Translate};
use llamatower_layers::BoxError;
use llamatower_layers::body::ReplayBody;
use tokio::runtime::{Builder, Runtime};
use tower::{ServiceExt, service_fn};

const CONNECTIONS: usize = 100;

/// An edge on a runtime that the test drives.
struct Driven {
    runtime: Runtime,
    addr: SocketAddr,
    gauges: Arc<Gauges>,
    clients: Vec<TcpStream>,
}

async fn hello(_: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello")))
}

impl Driven {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        let config = EdgeConfig {
            listen,
            ..EdgeConfig::default()
        };
        let edge = runtime.block_on(Edge::bind(config)).unwrap();
        let ListenAddr::Tcp(addr) = edge.local_addrs()[0] else {
            panic!("not a TCP address");
        };
        let gauges = edge.gauges();
        runtime.spawn(edge.serve(service_fn(hello), Shutdown::new()));
        let clients = Vec::with_capacity(2 * CONNECTIONS);
        Self {
            runtime,
            addr,
            gauges,
            clients,
        }
    }

    /// Connects this many clients, each of which runs `does`, and drives the edge until it has seen
    /// all of them.
    fn connect(&mut self, does: impl Fn(&mut TcpStream)) {
        let before = self.clients.len();
        for _ in 0..CONNECTIONS {
            let mut client = TcpStream::connect(self.addr).unwrap();
            does(&mut client);
            self.clients.push(client);
        }
        let finished = self.gauges.finished();
        let expected = before + CONNECTIONS;
        self.runtime.block_on(async {
            while self.gauges.connections() < expected {
                tokio::task::yield_now().await;
            }
            // By then all events of the sockets were processed.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(self.gauges.finished(), finished + self.answered(before));
    }

    /// The number of clients after the first `before` that have an answer.
    fn answered(&mut self, before: usize) -> u64 {
        let mut answered = 0;
        for client in &mut self.clients[before..] {
            client.set_nonblocking(true).unwrap();
            answered += u64::from(client.read(&mut [0; 512]).is_ok());
        }
        answered
    }
}

/// The memory of each of these connections in bytes, after other connections have filled pools and
/// tables.
fn bytes_of_each(does: impl Fn(&mut TcpStream)) -> i64 {
    let mut edge = Driven::start();
    edge.connect(&does);
    let held = allocation_counter::measure(|| edge.connect(&does));
    held.bytes_current / CONNECTIONS as i64
}

#[test]
fn a_silent_connection_uses_less_than_two_kilobytes() {
    let each = bytes_of_each(|_| {});
    assert!((1..2048).contains(&each), "{each} bytes");
}

#[test]
fn a_keep_alive_connection_uses_only_what_hyper_keeps() {
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let each = bytes_of_each(|client| client.write_all(request).unwrap());
    assert!((1..24 * 1024).contains(&each), "{each} bytes");
}

/// The memory to translate an answer of so many events, each of which is read before the next one.
fn translated(events: usize) -> AllocationInfo {
    const EVENT: &[u8] =
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"}}]}\n\n";
    const LAST: &[u8] =
        b"data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let client = service_fn(move |_: Request<ReplayBody<Empty<Bytes>>>| {
        let frames = (0..=events).map(move |at| match at == events {
            true => LAST,
            false => EVENT,
        });
        let frames = frames.map(|bytes| Ok::<_, BoxError>(Frame::data(Bytes::from_static(bytes))));
        let answer = Response::builder().header(CONTENT_TYPE, "text/event-stream");
        let body = StreamBody::new(stream::iter(frames));
        ready(Ok::<_, BoxError>(answer.body(body).unwrap()))
    });
    let server = Arc::new(Server::new("gpu-1:8000".into(), true));
    let asked = r#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#;
    let asked = Request::post("/api/chat").body(Bytes::from(asked).into());
    let answer = Translate::new(client, Some(server)).oneshot(asked.unwrap());
    let Poll::Ready(answer) = poll(pin!(answer)) else {
        panic!("the stream is there");
    };
    let mut body = pin!(answer.unwrap().into_body());
    let mut lines = 0;
    let used = allocation_counter::measure(|| {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
            lines += usize::from(frame.unwrap().is_data());
        }
    });
    assert_eq!(lines, events + 1);
    used
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn the_memory_of_a_translated_answer_does_not_grow_with_its_length() {
    let (short, long) = (translated(100), translated(10_000));
    // A line has the time, whose last digits may be zeros and are left out then. All lines together
    // have a megabyte.
    let more = long.bytes_max.abs_diff(short.bytes_max);
    assert!(more < 1024, "{more} bytes more at the same time");
    let each = (long.count_total - short.count_total) as f64 / 9_900.0;
    assert!(each <= 1.0, "{each} allocations for each line");
}
