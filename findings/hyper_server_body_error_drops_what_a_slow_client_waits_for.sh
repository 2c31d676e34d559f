#!/usr/bin/env bash
# hyper 1.12.0, HTTP/1 server: when the body of a response fails while earlier data still waits for a client
# that reads slowly, the client does not receive that data, although the body was pending in between and hyper
# had a turn to write. hyper polls a body also while its writes are pending, and after the body's error it
# flushes nothing. If the body ends in the place of the error, the same client receives all of it.
#
# So to hold an error back for one turn is not enough: it must wait until the socket has taken everything.
# hyper calls `poll_flush` of its socket only when its own buffer is empty, which shows when that is.
#
# Output seen:
#   a client with 1024 bytes of room, a body of 4000 bytes, then
#   an error: 1024 bytes
#   the end: all 4000 bytes
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml << 'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
bytes = "=1.12.2"
http-body = "=1.1.0"
hyper = { version = "=1.12.0", features = ["http1", "server"] }
hyper-util = { version = "=0.1.21", features = ["tokio"] }
tokio = { version = "=1.54.1", features = ["io-util", "macros", "rt"] }
TOML
cat > src/main.rs << 'RUST'
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Slow {
    polls: u8,
    breaks: bool,
}

impl Body for Slow {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.polls += 1;
        match self.polls {
            1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 4000]))))),
            2 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ if self.breaks => Poll::Ready(Some(Err(std::io::Error::other("it broke off")))),
            _ => Poll::Ready(None),
        }
    }
}

async fn seen(breaks: bool) -> String {
    let (mut client, server) = tokio::io::duplex(1024);
    let service = service_fn(move |_| async move {
        Ok::<_, Infallible>(hyper::Response::new(Slow { polls: 0, breaks }))
    });
    let http = hyper::server::conn::http1::Builder::new();
    let serving = http.serve_connection(TokioIo::new(server), service);
    let asking = async move {
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.unwrap();
        seen
    };
    // The client reads after the server's turn.
    tokio::join!(serving, asking).1
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("a client with 1024 bytes of room, a body of 4000 bytes, then");
    println!("an error: {} bytes", seen(true).await.len());
    let seen = seen(false).await;
    let body = seen.matches('x').count();
    println!("the end: all {body} bytes");
}
RUST
said="$(cargo run --quiet)"
echo "$said"
[ "$said" = "a client with 1024 bytes of room, a body of 4000 bytes, then
an error: 1024 bytes
the end: all 4000 bytes" ]
