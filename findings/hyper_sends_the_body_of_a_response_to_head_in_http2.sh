#!/usr/bin/env bash
# The server of hyper 1.12.0 leaves out the body of a response to HEAD in HTTP/1, whatever the service returns. In HTTP/2 it
# sends the body: a service that answers GET and HEAD alike, as tower and axum programs without a router for HEAD do, breaks HEAD
# for clients of HTTP/2 only (RFC 9110 9.3.2 forbids the content, RFC 9113 8.1.1 calls such a response malformed).
#
# curl and Node's http2 end the stream with PROTOCOL_ERROR, and Python's httpx raises an error, so a health check by `curl -I https://..`
# fails as soon as ALPN chooses h2. Go alone takes the response, drops the body and logs "received DATA on a HEAD request".
#
# What helps: to empty the body of responses to HEAD in one's own service, and to set Content-Length there, which hyper sets for HTTP/1.
#
# Needs cargo, Go 1.24, Node, Python, and a curl with HTTP/2.
#
# Output seen:
#   curl http/1.1: exit 0
#   curl h2: exit 92
#   httpx h2: LocalProtocolError: InvalidBodyLengthError: Expected 0 bytes, received 4
#   node h2: NGHTTP2_PROTOCOL_ERROR
#   go h2: 200, 0 bytes
set -euo pipefail
folder="$(mktemp -d)"
trap 'kill "${server:-}" 2> /dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > src/main.rs << 'RUST'
use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::Response;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async {
            let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("text")))) });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
RUST
cat > Cargo.toml << 'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
http-body-util = "=0.1.5"
hyper = "=1.12.0"
hyper-util = { version = "=0.1.21", features = ["http1", "http2", "server-auto", "tokio"] }
tokio = { version = "=1.54.1", features = ["macros", "net", "rt"] }
[profile.dev]
debug = false
TOML
cat > ask.py << 'PY'
import sys

import httpx

with httpx.Client(http1=False, http2=True) as client:
    try:
        answer = client.head(f"http://127.0.0.1:{sys.argv[1]}/")
        print(f"httpx h2: {answer.status_code}")
    except httpx.ProtocolError as error:
        print(f"httpx h2: {type(error).__name__}: {error}")
PY
cat > ask.mjs << 'JS'
import http2 from "node:http2";

const client = http2.connect(`http://127.0.0.1:${process.argv[2]}`);
const request = client.request({ ":method": "HEAD", ":path": "/" });
request.on("error", (error) => { console.log(`node h2: ${error.message.match(/NGHTTP2_\w+/)}`); process.exit(); });
request.on("end", () => { console.log("node h2: a clean end"); process.exit(); });
request.resume();
JS
cat > ask.go << 'GO'
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := http.Client{Transport: &http.Transport{Protocols: &protocols}}
	answer, err := client.Head("http://127.0.0.1:" + os.Args[1] + "/")
	if err != nil {
		fmt.Println("go h2:", err)
		return
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		fmt.Println("go h2:", err)
		return
	}
	fmt.Printf("go h2: %d, %d bytes\n", answer.StatusCode, len(body))
}
GO
CARGO_TARGET_DIR=target cargo build --quiet
python3 -m venv venv
venv/bin/pip install -q 'httpx[http2]==0.28.1' h2==4.3.0
go build -o ask ask.go
target/debug/finding > port &
server=$!
until [ -s port ]; do sleep 0.1; done
read -r port < port
seen="$(
    for version in http1.1 http2-prior-knowledge; do
        status=0
        curl -sI --max-time 10 "--$version" "http://127.0.0.1:$port/" > /dev/null || status=$?
        [ "$version" = http1.1 ] && echo "curl http/1.1: exit $status" || echo "curl h2: exit $status"
    done
    venv/bin/python ask.py "$port"
    node ask.mjs "$port"
    ./ask "$port" 2> log
)"
echo "$seen"
expected='curl http/1.1: exit 0
curl h2: exit 92
httpx h2: LocalProtocolError: InvalidBodyLengthError: Expected 0 bytes, received 4
node h2: NGHTTP2_PROTOCOL_ERROR
go h2: 200, 0 bytes'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
