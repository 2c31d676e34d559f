#!/usr/bin/env bash
# Node 20's fetch (undici 6.24.1): a chunked body whose connection ends without the last chunk is taken for a whole one
# if the answer said `Connection: close`; without that field it is an error, as RFC 9112 8 asks for. undici 7.16.0
# does the same. 6.29.1, of Node 22.23.5, reports both.
#
# So a server that breaks off a stream to say that it is incomplete is not understood by clients on Node 20 if it, or
# a proxy on the way, has announced the end of the connection: while it drains, for example. What helps is an
# error line or event before the end, where the client knows one.
#
# Output seen:
#   undici 6.24.1: keep-alive terminated, close whole
#   undici 6.29.1: keep-alive terminated, close terminated
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > cut.mjs << 'JS'
import net from "node:net";
import { readFileSync } from "node:fs";
import { fetch } from "undici";

const { version } = JSON.parse(readFileSync("node_modules/undici/package.json"));
const seen = [];
for (const close of [false, true]) {
  const head = `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n${close ? "Connection: close\r\n" : ""}\r\n`;
  // The first chunk, and no last one.
  const server = net.createServer((socket) => socket.once("data", () => socket.end(`${head}5\r\nhello\r\n`)));
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const answer = await fetch(`http://127.0.0.1:${server.address().port}/`);
  const body = await answer.text().then(() => "whole", (error) => error.message);
  seen.push(`${close ? "close" : "keep-alive"} ${body}`);
  server.close();
}
console.log(`undici ${version}: ${seen.join(", ")}`);
JS
seen() {
    npm install --silent --no-save --no-audit --no-fund "undici@$1"
    node cut.mjs
}
expected="undici 6.24.1: keep-alive terminated, close whole
undici 6.29.1: keep-alive terminated, close terminated"
output="$(seen 6.24.1; seen 6.29.1)"
echo "$output"
[ "$output" = "$expected" ]
