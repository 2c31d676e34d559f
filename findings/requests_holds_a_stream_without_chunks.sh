#!/usr/bin/env bash
# Python requests 2.34.2 (urllib3 2.8.0): `iter_lines()` of a streamed response gives each line as it comes if the body is in
# chunks (`Transfer-Encoding: chunked`). If the same body ends with the connection instead, as HTTP/1.0 and `Connection: close`
# allow, it waits until 512 bytes are together, which is several lines of a model's answer; and `iter_content(None)`, which
# "will read data as it arrives", waits for the end of the body. `iter_lines(chunk_size=1)` does not wait. Python httpx
# 0.28.1 and aiohttp 3.14.5 and npm undici 7.30.2 give each line at once in both.
#
# So a proxy that speaks HTTP/1.0 to its clients or takes the chunks away, or a small server made with http.server, turns
# the stream of such a program into jerks or into one piece, and the time to the first token into the time of the whole answer,
# although each byte is sent in time. What helps is chunks on the whole way, or chunk_size=1.
#
# Output seen (lines that a client has when the fourth and last one has not been sent yet):
#   requests iter_lines(): chunks 3, without chunks 0
#   requests iter_content(None): chunks 3, without chunks 0
#   requests iter_lines(chunk_size=1): chunks 3, without chunks 3
#   httpx iter_lines(): chunks 3, without chunks 3
#   aiohttp content: chunks 3, without chunks 3
#   undici fetch: chunks 3, without chunks 3
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > ask.py << 'PY'
import asyncio
import socketserver
import subprocess
import threading
import time

import aiohttp
import httpx
import requests

lines = [b'{"message":{"content":"word"},"done":%s}\n' % done for done in (b"false", b"false", b"false", b"true")]
last_sent = threading.Event()


class Server(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        kind = "Transfer-Encoding: chunked" if self.server.chunked else "Connection: close"
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n{kind}\r\n\r\n".encode())
        for line in lines:
            if line is lines[-1]:
                # Enough for a client to read what it can.
                time.sleep(2)
                last_sent.set()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line) if self.server.chunked else line)
        if self.server.chunked:
            self.wfile.write(b"0\r\n\r\n")


def url(chunked):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server)
    server.chunked, server.daemon_threads = chunked, True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/"


def early(parts):
    """The parts that came before the last line was sent."""
    return sum(not last_sent.is_set() for part in parts if part.strip())


def by_httpx(address):
    with httpx.stream("GET", address) as response:
        return early(response.iter_lines())


def by_aiohttp(address):
    async def ask():
        async with aiohttp.ClientSession() as session, session.get(address) as response:
            return sum([not last_sent.is_set() async for _ in response.content])

    return asyncio.run(ask())


def by_undici(address):
    with subprocess.Popen(["node", "ask.mjs", address], stdout=subprocess.PIPE) as program:
        return early(program.stdout)


def by_requests(read):
    return lambda address: early(read(requests.get(address, stream=True)))


clients = {
    "requests iter_lines()": by_requests(lambda response: response.iter_lines()),
    "requests iter_content(None)": by_requests(lambda response: response.iter_content(None)),
    "requests iter_lines(chunk_size=1)": by_requests(lambda response: response.iter_lines(chunk_size=1)),
    "httpx iter_lines()": by_httpx,
    "aiohttp content": by_aiohttp,
    "undici fetch": by_undici,
}
for name, ask in clients.items():
    seen = []
    for kind, chunked in {"chunks": True, "without chunks": False}.items():
        last_sent.clear()
        seen.append(f"{kind} {ask(url(chunked))}")
    print(f"{name}: {', '.join(seen)}")
PY
cat > ask.mjs << 'JS'
import { fetch } from "undici";

// A line each, whatever the parts are.
for await (const part of (await fetch(process.argv[2])).body) process.stdout.write(part);
JS
python3 -m venv venv
venv/bin/pip install -q requests==2.34.2 urllib3==2.8.0 httpx==0.28.1 aiohttp==3.14.5
npm install --silent --no-audit --no-fund undici@7.30.2
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected='requests iter_lines(): chunks 3, without chunks 0
requests iter_content(None): chunks 3, without chunks 0
requests iter_lines(chunk_size=1): chunks 3, without chunks 3
httpx iter_lines(): chunks 3, without chunks 3
aiohttp content: chunks 3, without chunks 3
undici fetch: chunks 3, without chunks 3'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
