#!/usr/bin/env bash
# Redis 7.0.15 keeps its connections when `REPLICAOF` makes a replica of it, and refuses each write on them with READONLY.
# The ConnectionManager of the Rust crate redis 1.8.1, Python redis 8.1.0, npm redis 6.3.1 and npm ioredis 6.0.0 take that
# for the answer to a command and keep the connection, although their next one would lead to the new master: a name
# or a Kubernetes Service has moved by then. So each write fails until somebody closes the connection. Go's
# go-redis 9.23.0 closes it at the first READONLY and repeats the command, and its program sees no error.
#
# So after a failover without a break of the connections, which is the good kind, a program that shares its limits or its
# state by such a client shares nothing any more, and only a restart helps. A reconnect in the client's own sense
# ("automatically reconnects") is for broken connections alone. What helps is to treat READONLY as a broken
# connection in one's own code (ioredis has reconnectOnError for that), or `CLIENT KILL TYPE normal` at the failover, which
# Redis Sentinel sends.
#
# Needs `redis-server`, or the program that REDIS_BIN names.
#
# Output seen (writes after the failover):
#   rust redis: 5 of 5 failed
#   py redis: 5 of 5 failed
#   npm redis: 5 of 5 failed
#   npm ioredis: 5 of 5 failed
#   go-redis: 0 of 5 failed
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# Each client writes once, says so, waits for a line, and then writes five times.
cat > failover.py << 'PY'
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

import redis


class Server:
    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        program = os.environ.get("REDIS_BIN", "redis-server")
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", tempfile.mkdtemp(dir=".")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port)
        for _ in range(100):
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.1)
        sys.exit("redis-server does not start")


def pump(source, target):
    while part := source.recv(65536):
        target.sendall(part)


def serve(name):
    """The name of the master: a new connection leads to the master of that moment."""
    while True:
        client, _ = name.accept()
        server = socket.create_connection(("127.0.0.1", master.port))
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


def fail_over(old, new):
    new.client.replicaof("NO", "ONE")
    old.client.replicaof("127.0.0.1", new.port)
    return new


servers = [Server(), Server()]
master = servers[0]
name = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(name,), daemon=True).start()
clients = {
    "rust redis": ["target/debug/finding"],
    "py redis": [sys.executable, "write.py"],
    "npm redis": ["node", "write.mjs", "redis"],
    "npm ioredis": ["node", "write.mjs", "ioredis"],
    "go-redis": ["./write"],
}
for label, command in clients.items():
    client = subprocess.Popen(
        [*command, str(name.getsockname()[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout.readline() == "written\n"
    master = fail_over(master, servers[1 - servers.index(master)])
    failed, _ = client.communicate("go on\n")
    print(f"{label}: {failed.strip()} of 5 failed")
for server in servers:
    server.process.terminate()
PY
cat > write.py << 'PY'
import sys

import redis

client = redis.Redis(port=int(sys.argv[1]))
client.set("key", "1")
print("written", flush=True)
sys.stdin.readline()
failed = 0
for _ in range(5):
    try:
        client.set("key", "1")
    except redis.ReadOnlyError:
        failed += 1
print(failed)
PY
cat > write.mjs << 'JS'
import { once } from "node:events";
import { Redis } from "ioredis";
import { createClient } from "redis";

const [library, port] = process.argv.slice(2);
const client = library === "ioredis" ? new Redis(port) : await createClient({ url: `redis://127.0.0.1:${port}` }).connect();
await client.set("key", "1");
console.log("written");
await once(process.stdin, "data");
let failed = 0;
for (let time = 0; time < 5; time++) {
  await client.set("key", "1").catch((error) => {
    if (!error.message.startsWith("READONLY")) throw error;
    failed++;
  });
}
console.log(failed);
process.exit();
JS
cat > write.go << 'GO'
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"
)

func main() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + os.Args[1]})
	write := func() error { return client.Set(context.Background(), "key", "1", 0).Err() }
	if err := write(); err != nil {
		panic(err)
	}
	fmt.Println("written")
	os.Stdin.Read(make([]byte, 16))
	failed := 0
	for range 5 {
		if write() != nil {
			failed++
		}
	}
	fmt.Println(failed)
}
GO
mkdir src
cat > src/main.rs << 'RUST'
use redis::{cmd, Client, ErrorKind, ServerErrorKind};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).unwrap();
    let client = Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let mut manager = client.get_connection_manager().await.unwrap();
    let set = cmd("SET").arg("key").arg("1").to_owned();
    set.exec_async(&mut manager).await.unwrap();
    println!("written");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let mut failed = 0;
    for _ in 0..5 {
        if let Err(error) = set.exec_async(&mut manager).await {
            assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly));
            failed += 1;
        }
    }
    println!("{failed}");
}
RUST
cat > Cargo.toml << 'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
redis = { version = "=1.8.1", default-features = false, features = ["connection-manager", "tokio-comp"] }
tokio = { version = "=1.54.1", features = ["macros", "rt"] }
[profile.dev]
debug = false
TOML
python3 -m venv venv
venv/bin/pip install -q redis==8.1.0
npm install --silent --no-audit --no-fund ioredis@6.0.0 redis@6.3.1
go mod init finding > /dev/null 2>&1
go get github.com/redis/go-redis/v9@v9.23.0 > /dev/null 2>&1
go build -o write write.go
CARGO_TARGET_DIR=target cargo build --quiet
seen="$(venv/bin/python failover.py 2> log)" || { cat log; exit 1; }
echo "$seen"
expected='rust redis: 5 of 5 failed
py redis: 5 of 5 failed
npm redis: 5 of 5 failed
npm ioredis: 5 of 5 failed
go-redis: 0 of 5 failed'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
