#!/usr/bin/env bash
# hyper 1.12.0, HTTP/1 server: when the body of a response fails in the same poll in which it gave data,
# the client receives nothing at all, not even the status line. The head and the data lie in hyper's write
# buffer, and an error of the body ends the connection without a flush. If the body is pending once before
# it fails, the head and the data arrive, and only the end is missing.
#
# So a proxy whose backend breaks off right after its first line must hold the error back until hyper has
# flushed, or its client cannot tell a broken answer from a server that never answered.
#
# Output seen:
#   fails at once: 0 bytes
#   pending first: head true, data true, end false
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

struct Breaks {
    polls: u8,
    pauses: bool,
}

impl Body for Breaks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.polls += 1;
        match self.polls {
            1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"first line\n"))))),
            2 if self.pauses => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(std::io::Error::other("the backend broke off")))),
        }
    }
}

async fn seen(pauses: bool) -> String {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let service = service_fn(move |_| async move {
        Ok::<_, Infallible>(hyper::Response::new(Breaks { polls: 0, pauses }))
    });
    let http = hyper::server::conn::http1::Builder::new();
    let serving = http.serve_connection(TokioIo::new(server), service);
    let asking = async move {
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.unwrap();
        seen
    };
    tokio::join!(serving, asking).1
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("fails at once: {} bytes", seen(false).await.len());
    let seen = seen(true).await;
    println!(
        "pending first: head {}, data {}, end {}",
        seen.starts_with("HTTP/1.1 200 OK"),
        seen.contains("first line"),
        seen.ends_with("0\r\n\r\n"),
    );
}
RUST
said="$(cargo run --quiet)"
echo "$said"
[ "$said" = "fails at once: 0 bytes
pending first: head true, data true, end false" ]
