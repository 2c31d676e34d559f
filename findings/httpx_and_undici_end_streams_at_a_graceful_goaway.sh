#!/usr/bin/env bash
# Over HTTP/2 a server that shuts down gracefully sends GOAWAY with the error code 0 and the number of the last stream
# that it still answers (RFC 9113, 6.8), and goes on with the streams up to that number. Python httpx 0.28.1 (httpcore
# 1.0.9), httpx2 2.16.2, and npm undici 7.30.2 with `allowH2` end these streams too: as soon as they read the frame, the
# running response fails, although the server goes on with it. Go's net/http and Node's own node:http2 read it to the end.
#
# So a restart without interruption, in which a gateway waits for its running streams, breaks off every answer for these
# clients. OpenAI's and Anthropic's Python libraries (3.54.0, 2.14.0) are built on httpx2 and take a client with http2=True.
# With HTTP/1.1 the same shutdown of the same server interrupts nobody. What helps is HTTP/1.1 for these clients, which
# is what they speak unless they are told otherwise, or a server that sends no GOAWAY before its streams have ended.
#
# Output seen:
#   py httpx: 1 line, HTTP/2, <ConnectionTerminated error_code:0, last_stream_id:1, additional_data:None>
#   py httpx: 4 lines, HTTP/1.1, whole
#   py httpx2: 1 line, HTTP/2, <ConnectionTerminated error_code:0, last_stream_id:1, additional_data:None>
#   py httpx2: 4 lines, HTTP/1.1, whole
#   npm undici: 1 line, HTTP/2, HTTP/2: "GOAWAY" frame received with code 0
#   npm undici: 4 lines, HTTP/1.1, whole
#   node:http2: 4 lines, HTTP/2, whole
#   go: 4 lines, HTTP/2, whole
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > main.go << 'GO'
package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"time"
)

// shutdown runs the client against a server that begins to shut down after the first of four lines.
func shutdown(client func(address string)) {
	var server *httptest.Server
	ended := make(chan error)
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for number := range 4 {
			fmt.Fprintf(w, "%s line %d\n", r.Proto, number)
			w.(http.Flusher).Flush()
			if number == 0 {
				go func() { ended <- server.Config.Shutdown(context.Background()) }()
			}
			time.Sleep(500 * time.Millisecond)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	client(server.URL)
	if err := <-ended; err != nil {
		panic(err)
	}
}

func program(name string, arguments ...string) func(string) {
	return func(address string) {
		command := exec.Command(name, append(arguments, address)...)
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		if err := command.Run(); err != nil {
			panic(err)
		}
	}
}

func native(address string) {
	insecure := httptest.NewUnstartedServer(nil)
	insecure.EnableHTTP2 = true
	insecure.StartTLS()
	defer insecure.Close()
	// The client of a test server trusts the certificate of each test server.
	response, err := insecure.Client().Get(address)
	if err != nil {
		panic(err)
	}
	lines := 0
	scanner := bufio.NewScanner(response.Body)
	for scanner.Scan() {
		lines++
	}
	end := "whole"
	if err := scanner.Err(); err != nil {
		end = err.Error()
	}
	fmt.Printf("go: %d lines, HTTP/%d, %s\n", lines, response.ProtoMajor, end)
}

func main() {
	shutdown(program("venv/bin/python", "ask.py", "httpx", "2"))
	shutdown(program("venv/bin/python", "ask.py", "httpx", "1"))
	shutdown(program("venv/bin/python", "ask.py", "httpx2", "2"))
	shutdown(program("venv/bin/python", "ask.py", "httpx2", "1"))
	shutdown(program("node", "fetch.mjs", "2"))
	shutdown(program("node", "fetch.mjs", "1"))
	shutdown(program("node", "http2.mjs"))
	shutdown(native)
}
GO
cat > ask.py << 'PY'
import importlib
import sys

_, name, version, address = sys.argv
library = importlib.import_module(name)
lines, end = [], "whole"
with library.Client(http2=version == "2", verify=False) as client, client.stream("GET", address) as response:
    try:
        for line in response.iter_lines():
            lines.append(line)
    except library.RemoteProtocolError as error:
        end = str(error)
print(f"py {name}: {len(lines)} line{'s' if len(lines) > 1 else ''}, {response.http_version}, {end}")
PY
cat > fetch.mjs << 'JS'
import { Agent, fetch } from "undici";

const [version, address] = process.argv.slice(2);
const dispatcher = new Agent({ allowH2: version === "2", connect: { rejectUnauthorized: false } });
const response = await fetch(address, { dispatcher });
let text = "";
let end = "whole";
try {
  for await (const part of response.body) text += Buffer.from(part);
} catch (error) {
  end = error.cause.message;
}
const lines = text.trim().split("\n");
const spoken = lines[0].startsWith("HTTP/2") ? "HTTP/2" : "HTTP/1.1";
console.log(`npm undici: ${lines.length} line${lines.length > 1 ? "s" : ""}, ${spoken}, ${end}`);
JS
cat > http2.mjs << 'JS'
import { connect } from "node:http2";

const session = connect(process.argv[2], { rejectUnauthorized: false });
const request = session.request({ ":path": "/" });
let text = "";
let end = "whole";
request.on("data", (part) => (text += part));
request.on("error", (error) => (end = error.message));
request.on("close", () => {
  console.log(`node:http2: ${text.trim().split("\n").length} lines, HTTP/2, ${end}`);
  session.close();
});
JS
python3 -m venv venv
venv/bin/pip install -q "httpx[http2]==0.28.1" httpcore==1.0.9 "httpx2[http2]==2.16.2" h2==4.4.1
npm install --silent --no-audit --no-fund undici@7.30.2
go mod init finding > /dev/null 2>&1
seen="$(go run . 2> log)" || { cat log; exit 1; }
echo "$seen"
expected='py httpx: 1 line, HTTP/2, <ConnectionTerminated error_code:0, last_stream_id:1, additional_data:None>
py httpx: 4 lines, HTTP/1.1, whole
py httpx2: 1 line, HTTP/2, <ConnectionTerminated error_code:0, last_stream_id:1, additional_data:None>
py httpx2: 4 lines, HTTP/1.1, whole
npm undici: 1 line, HTTP/2, HTTP/2: "GOAWAY" frame received with code 0
npm undici: 4 lines, HTTP/1.1, whole
node:http2: 4 lines, HTTP/2, whole
go: 4 lines, HTTP/2, whole'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
