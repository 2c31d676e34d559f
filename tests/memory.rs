//! The memory of idle connections.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use llamatower::edge::{Edge, EdgeConfig, Gauges, ListenAddr, RequestBody, Shutdown};
use tokio::runtime::{Builder, Runtime};
use tower::service_fn;

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
