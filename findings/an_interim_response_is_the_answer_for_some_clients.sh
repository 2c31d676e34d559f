#!/usr/bin/env bash
# HTTP lets a server send any number of interim responses (1xx) before the answer, and a client must be able to read them
# (RFC 9110, 15.2). Not all do. Python requests 2.34.2 (urllib3 2.8.0, http.client of Python 3.11) and Java's HttpURLConnection
# (JDK 17) take `102 Processing` or `103 Early Hints` for the answer. For requests its body is empty, and its status is no
# error for raise_for_status; for HttpURLConnection the body is what follows, the head of the real answer included. Java's
# HttpClient reads eight of them, and fails at the ninth. Python httpx 0.28.1 and aiohttp 3.14.5 and npm undici 7.30.2
# read on.
#
# So a gateway cannot show with a 102 each few seconds that a request still waits in its queue, and one that passes the
# interim responses of its servers on changes the answers of such clients into nothing. What helps is to keep them
# to itself, except `100 Continue` where the client has asked for it.
#
# Output seen (interim responses: the status and the first line of the body that the client gives):
#   requests: none: 200 "{}", 103: 103 "", one 102: 102 "", nine 102: 102 ""
#   httpx: none: 200 "{}", 103: 200 "{}", one 102: 200 "{}", nine 102: 200 "{}"
#   aiohttp: none: 200 "{}", 103: 200 "{}", one 102: 200 "{}", nine 102: 200 "{}"
#   undici: none: 200 "{}", 103: 200 "{}", one 102: 200 "{}", nine 102: 200 "{}"
#   java HttpURLConnection: none: 200 "{}", 103: 103 "HTTP/1.1 200 OK", one 102: 102 "HTTP/1.1 200 OK", nine 102: 102 "HTTP/1.1 102 Processing"
#   java HttpClient: none: 200 "{}", 103: 200 "{}", one 102: 200 "{}", nine 102: ProtocolException
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > ask.py << 'PY'
import asyncio
import json
import socketserver
import subprocess
import threading

import aiohttp
import httpx
import requests

processing = b"HTTP/1.1 102 Processing\r\n\r\n"
hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
cases = {"none": b"", "103": hints, "one 102": processing, "nine 102": processing * 9}


class Server(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(self.server.interim + answer)


def url(interim):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server)
    server.interim, server.daemon_threads = interim, True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/"


async def by_aiohttp(address):
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        return response.status, await response.text()


def by_library(library):
    response = library.get(address)
    return response.status_code, response.text


urls = {name: url(interim) for name, interim in cases.items()}
clients = {
    "requests": lambda: by_library(requests),
    "httpx": lambda: by_library(httpx),
    "aiohttp": lambda: asyncio.run(by_aiohttp(address)),
}
for client, ask in clients.items():
    seen = []
    for name, address in urls.items():
        status, body = ask()
        seen.append(f"{name}: {status} {json.dumps(body)}")
    print(f"{client}: {', '.join(seen)}")
pairs = [part for pair in urls.items() for part in pair]
for command in (["node", "ask.mjs"], ["java", "Ask.java", "HttpURLConnection"], ["java", "Ask.java", "HttpClient"]):
    print(subprocess.run(command + pairs, capture_output=True, text=True, check=True).stdout.strip())
PY
cat > ask.mjs << 'JS'
import { fetch } from "undici";

const seen = [];
for (let pairs = process.argv.slice(2); pairs.length; pairs = pairs.slice(2)) {
  const response = await fetch(pairs[1]);
  seen.push(`${pairs[0]}: ${response.status} ${JSON.stringify(await response.text())}`);
}
console.log(`undici: ${seen.join(", ")}`);
JS
cat > Ask.java << 'JAVA'
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;

public class Ask {
    static String byConnection(URI address) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) address.toURL().openConnection();
        int status = connection.getResponseCode();
        String body = new String(connection.getInputStream().readAllBytes());
        return status + " \"" + body.lines().findFirst().orElse("") + "\"";
    }

    static String byClient(URI address) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        var response = client.send(HttpRequest.newBuilder(address).build(), HttpResponse.BodyHandlers.ofString());
        return response.statusCode() + " \"" + response.body() + "\"";
    }

    public static void main(String[] arguments) {
        var seen = new ArrayList<String>();
        for (int at = 1; at < arguments.length; at += 2) {
            URI address = URI.create(arguments[at + 1]);
            String answer;
            try {
                answer = arguments[0].equals("HttpClient") ? byClient(address) : byConnection(address);
            } catch (Exception error) {
                answer = error.getClass().getSimpleName();
            }
            seen.add(arguments[at] + ": " + answer);
        }
        System.out.println("java " + arguments[0] + ": " + String.join(", ", seen));
    }
}
JAVA
python3 -m venv venv
venv/bin/pip install -q requests==2.34.2 urllib3==2.8.0 httpx==0.28.1 aiohttp==3.14.5
npm install --silent --no-audit --no-fund undici@7.30.2
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected='requests: none: 200 "{}", 103: 103 "", one 102: 102 "", nine 102: 102 ""
httpx: none: 200 "{}", 103: 200 "{}", one 102: 200 "{}", nine 102: 200 "{}"
aiohttp: none: 200 "{}", 103: 200 "{}", one 102: 200 "{}", nine 102: 200 "{}"
undici: none: 200 "{}", 103: 200 "{}", one 102: 200 "{}", nine 102: 200 "{}"
java HttpURLConnection: none: 200 "{}", 103: 103 "HTTP/1.1 200 OK", one 102: 102 "HTTP/1.1 200 OK", nine 102: 102 "HTTP/1.1 102 Processing"
java HttpClient: none: 200 "{}", 103: 200 "{}", one 102: 200 "{}", nine 102: ProtocolException'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
