#!/usr/bin/env bash
# tokio 1.54.1: `readable()` of a socket that `accept` has just given is ready at once, although the client
# has sent nothing: such a socket is assumed to be readable and writable until a read has failed. With
# 1.47.1 it waits for the first byte. A socket from `connect` waits in both.
#
# So a server that waits by `readable()` alone before it makes its buffers makes them for each client that
# connects and says nothing. What helps is to read, and to wait again when there was nothing.
#
# Output seen:
#   1.47.1: accepted waits, connected waits, accepted after a failed read waits
#   1.54.1: accepted is readable, connected waits, accepted after a failed read waits
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > src/main.rs << 'RUST'
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// Nothing is ever sent, so a socket that waits would wait for ever.
async fn state(socket: &TcpStream) -> &'static str {
    let limit = Duration::from_millis(500);
    match tokio::time::timeout(limit, socket.readable()).await {
        Ok(_) => "is readable",
        Err(_) => "waits",
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let first = state(&server).await;
    let of_client = state(&client).await;
    assert!(server.try_read(&mut [0]).is_err());
    let then = state(&server).await;
    println!("accepted {first}, connected {of_client}, accepted after a failed read {then}");
}
RUST
seen() {
    cat > Cargo.toml << TOML
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
tokio = { version = "=$1", features = ["macros", "net", "rt", "time"] }
TOML
    rm -f Cargo.lock
    echo "$1: $(cargo run --quiet)"
}
expected="1.47.1: accepted waits, connected waits, accepted after a failed read waits
1.54.1: accepted is readable, connected waits, accepted after a failed read waits"
output="$(seen 1.47.1; seen 1.54.1)"
echo "$output"
[ "$output" = "$expected" ]
