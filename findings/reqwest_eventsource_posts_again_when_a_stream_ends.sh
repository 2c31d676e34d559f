#!/usr/bin/env bash
# Rust reqwest-eventsource 0.6.0: when the server ends a stream properly, the EventSource gives Err(StreamEnded) as an item,
# and a program that goes on reading makes it send the same request again, after a short pause, without end; a POST
# with its body too. The retry policy starts anew with each stream that opens, so its growing pauses do not grow.
# The browsers' EventSource, which does so too, can only send GET. A reader that stops at the first Err or closes at [DONE] is safe.
#
# So a program that logs an error and reads on, as is usual for such streams, asks the model for a new answer
# each time, and pays for it. A server that forgets [DONE], or loses it, has the same effect on one that waits for it. What helps is
# RequestBuilder's plain response, `set_retry_policy` with `retry::Never`, or `close()` after the last event.
#
# Output seen:
#   default: answer 1, StreamEnded, answer 2, StreamEnded, answer 3, StreamEnded, 3 times the body "hi" by POST
#   retry::Never: answer 1, StreamEnded, 1 times the body "hi" by POST
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
futures-util = "=0.3.34"
reqwest = { version = "=0.12.28", default-features = false, features = ["stream"] }
reqwest-eventsource = "=0.6.0"
tokio = { version = "=1.54.1", features = ["io-util", "macros", "net", "rt"] }
TOML
cat > src/main.rs << 'RUST'
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use reqwest_eventsource::{retry, Event, EventSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

async fn serve(listener: TcpListener, received: Arc<Mutex<Vec<String>>>) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = String::new();
        while !request.ends_with("\r\n\r\nhi") {
            let mut part = [0; 4096];
            let length = socket.read(&mut part).await.unwrap();
            request.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        let number = {
            let mut received = received.lock().unwrap();
            received.push(request);
            received.len()
        };
        let body = format!("data: answer {number}\n\n");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close";
        let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
    }
}

async fn ask(name: &str, retries: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(serve(listener, received.clone()));
    let mut events = EventSource::new(reqwest::Client::new().post(url).body("hi")).unwrap();
    if !retries {
        events.set_retry_policy(Box::new(retry::Never));
    }
    let mut seen = Vec::new();
    while seen.len() < 6 {
        match events.next().await {
            Some(Ok(Event::Message(message))) => seen.push(message.data),
            Some(Ok(Event::Open)) => {}
            Some(Err(error)) => seen.push(format!("{error:?}")),
            None => break,
        }
    }
    let received = received.lock().unwrap();
    assert!(received.iter().all(|each| each.starts_with("POST / ")));
    println!("{name}: {}, {} times the body \"hi\" by POST", seen.join(", "), received.len());
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    ask("default", true).await;
    ask("retry::Never", false).await;
}
RUST
said="$(cargo run --quiet)"
echo "$said"
[ "$said" = 'default: answer 1, StreamEnded, answer 2, StreamEnded, answer 3, StreamEnded, 3 times the body "hi" by POST
retry::Never: answer 1, StreamEnded, 1 times the body "hi" by POST' ]
