//! The memory of idle connections, of clients that have left, of lines that are kept, and of answers that
//! are translated.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{pending, ready};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use allocation_counter::AllocationInfo;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use llamatower::edge::{Edge, EdgeConfig, Gauges, HttpStack, ListenAddr, RequestBody, Shutdown};
use llamatower::ollama::upstream::Upstream;
use llamatower::openai::{Server, Translate};
use llamatower_layers::BoxError;
use llamatower_layers::body::ReplayBody;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
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

/// Answers no request.
async fn silent(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _body = request.into_body().collect().await;
    pending().await
}

impl Driven {
    fn start(stack: impl HttpStack) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        let config = EdgeConfig {
            listen,
            plain_http2: true,
            ..EdgeConfig::default()
        };
        let edge = runtime.block_on(Edge::bind(config)).unwrap();
        let ListenAddr::Tcp(addr) = edge.local_addrs()[0] else {
            panic!("not a TCP address");
        };
        let gauges = edge.gauges();
        runtime.spawn(edge.serve(stack, Shutdown::new()));
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
            all_events().await;
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

/// By then all events of the sockets were processed.
async fn all_events() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

/// The memory of each of these connections in bytes, after other connections have filled pools and
/// tables.
fn bytes_of_each(does: impl Fn(&mut TcpStream)) -> i64 {
    let mut edge = Driven::start(service_fn(hello));
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

/// When a client closes its connection.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// Before the edge has read what it sent.
    AtOnce,
    DuringItsRequest,
    AfterItsRequest,
    /// When the edge cannot write more, because the client does not read.
    Unread,
}

impl Driven {
    /// Drives the edge until this is so.
    fn until(&self, is_so: impl Fn(&Gauges) -> bool) {
        let waits = async {
            while !is_so(&self.gauges) {
                tokio::task::yield_now().await;
            }
        };
        let waits = async { timeout(Duration::from_secs(10), waits).await };
        let waited = self.runtime.block_on(waits);
        waited.expect("what the test waits for did not happen");
    }

    /// A client sends this, and leaves.
    fn leave(&self, sent: &[u8], leaves: Leaves) {
        let finished = self.gauges.finished();
        let mut client = TcpStream::connect(self.addr).unwrap();
        client.write_all(sent).unwrap();
        match leaves {
            Leaves::AtOnce => {}
            Leaves::DuringItsRequest => self.until(|gauges| gauges.in_flight() == 1),
            Leaves::AfterItsRequest => self.until(|gauges| gauges.finished() > finished),
            Leaves::Unread => self.runtime.block_on(all_events()),
        }
        drop(client);
        self.until(|gauges| gauges.finished() > finished && gauges.connections() == 0);
    }

    /// The memory that stays of each client that leaves in this way, in bytes.
    fn bytes_left_of_each(&self, sent: &[u8], leaves: Leaves) -> i64 {
        let leave = || (0..CONNECTIONS).for_each(|_| self.leave(sent, leaves));
        // Fills pools and tables.
        leave();
        allocation_counter::measure(leave).bytes_current / CONNECTIONS as i64
    }
}

/// The beginning of a connection in HTTP/2, and a GET.
fn http2_request() -> Vec<u8> {
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS; then HEADERS, which end the head and the stream.
    sent.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    sent.extend([0, 0, 14, 1, 5, 0, 0, 0, 1]);
    // GET, http, `/` and the authority (RFC 7541 6).
    sent.extend([0x82, 0x86, 0x84, 0x41, 9]);
    sent.extend(b"localhost");
    sent
}

/// Asserts that nothing stays of clients that send this and leave.
fn assert_nothing_left(edge: &Driven, sent: &[u8], leaves: &[Leaves]) {
    for leaves in leaves {
        let each = edge.bytes_left_of_each(sent, *leaves);
        let text = String::from_utf8_lossy(sent);
        assert!(each < 64, "{each} bytes: {leaves:?}, {text:?}");
    }
}

const WHOLE: &[u8] = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
const HALF: &[u8] = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhello";
const CHUNKED: &[u8] =
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";

#[test]
fn nothing_stays_of_a_client_that_leaves_before_its_answer() {
    let edge = Driven::start(service_fn(silent));
    for sent in [WHOLE, HALF, CHUNKED] {
        assert_nothing_left(&edge, sent, &[Leaves::AtOnce, Leaves::DuringItsRequest]);
    }
}

#[test]
fn nothing_stays_of_a_client_whose_body_is_not_read() {
    let edge = Driven::start(service_fn(hello));
    for sent in [WHOLE, HALF, CHUNKED] {
        assert_nothing_left(&edge, sent, &[Leaves::AtOnce, Leaves::AfterItsRequest]);
    }
}

#[test]
fn nothing_stays_of_a_client_that_leaves_an_answer_unread() {
    let edge = Driven::start(service_fn(|_: Request<RequestBody>| {
        let frame = || Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[0; 16 * 1024])));
        let body = StreamBody::new(stream::repeat_with(frame));
        ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    assert_nothing_left(&edge, WHOLE, &[Leaves::Unread]);
}

#[test]
fn nothing_stays_of_a_client_that_leaves_in_http2() {
    let edge = Driven::start(service_fn(silent));
    assert_nothing_left(&edge, &http2_request(), &[Leaves::DuringItsRequest]);
}

/// A server whose response is a stream of lines, one for each message of `next`.
fn lines_on_demand(next: mpsc::Receiver<()>) -> SocketAddr {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        assert_ne!(client.read(&mut [0; 4096]).unwrap(), 0);
        client.write_all(HEAD).unwrap();
        for () in next {
            client.write_all(b"3\r\n{}\n\r\n").unwrap();
        }
    });
    addr
}

#[test]
fn a_line_that_is_kept_does_not_keep_the_buffer_of_its_connection() {
    const LINES: usize = 100;
    let (next, demand) = mpsc::channel();
    let address = format!("http://{}", lines_on_demand(demand));
    let upstream = Upstream::<Empty<Bytes>>::new(address.parse().unwrap());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let request = Request::get("/api/chat").body(Empty::new()).unwrap();
    let mut lines = runtime
        .block_on(upstream.oneshot(request))
        .unwrap()
        .into_body();
    let mut kept = Vec::with_capacity(LINES);
    let used = allocation_counter::measure(|| {
        for _ in 0..LINES {
            next.send(()).unwrap();
            kept.push(runtime.block_on(lines.frame()).unwrap().unwrap());
        }
    });
    assert_eq!(kept.len(), LINES);
    let each = used.bytes_current / LINES as i64;
    assert!(each < 1024, "{each} bytes for each line of three");
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
    // What is allocated once for the process does not count.
    translated(1);
    let (short, long) = (translated(100), translated(10_000));
    // A line has the time, whose last digits may be zeros and are left out then. All lines together
    // have a megabyte.
    let more = long.bytes_max.abs_diff(short.bytes_max);
    assert!(more < 1024, "{more} bytes more at the same time");
    let each = (long.count_total as f64 - short.count_total as f64) / 9_900.0;
    assert!(each <= 1.0, "{each} allocations for each line");
}
