#!/usr/bin/env bash
# OpenAI's own libraries mean three things by the `timeout` of a client or request. Python openai 3.54.0: the longest
# wait for the next bytes; comments that keep the stream open start it again. npm openai 6.49.0: the wait for the head of the
# response; afterwards only the limits of `fetch` itself hold, for streams and for whole responses. Go openai-go 3.99.0
# (WithRequestTimeout): the time until the end of the body, so it ends a healthy stream too.
#
# So the same number that catches a dead server in Python cuts off long answers in Go and catches nothing after
# the head in Node. A gateway that sends the head early, or comments to keep the stream open, turns the time-out off for
# Node and for Python. What helps is a limit on silent streams in the gateway itself.
#
# Output seen, with a time-out of 1 s:
#   py: a part each 0.7 s: whole, comments each 0.7 s: whole, silent for 2.5 s after a part: time-out
#   npm: a part each 0.7 s: whole, comments each 0.7 s: whole, silent for 2.5 s after a part: whole
#   go: a part each 0.7 s: time-out, comments each 0.7 s: time-out, silent for 2.5 s after a part: time-out
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q openai==3.54.0
npm install --silent --no-audit --no-fund openai@6.49.0
cat > ask.mjs <<'JS'
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0, timeout: 1000 });
const request = { model: "m", stream: true, messages: [{ role: "user", content: "hi" }] };
try {
  let text = "";
  for await (const chunk of await client.chat.completions.create(request)) text += chunk.choices[0].delta.content;
  console.log(text);
} catch (error) {
  if (!(error instanceof OpenAI.APIConnectionTimeoutError)) throw error;
  console.log("time-out");
}
JS
mkdir go
cat > go/main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func main() {
	client := openai.NewClient(option.WithBaseURL(os.Args[1]), option.WithAPIKey("none"), option.WithMaxRetries(0),
		option.WithRequestTimeout(time.Second))
	stream := client.Chat.Completions.NewStreaming(context.Background(), openai.ChatCompletionNewParams{
		Model: "m", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}})
	text := ""
	for stream.Next() {
		text += stream.Current().Choices[0].Delta.Content
	}
	if errors.Is(stream.Err(), context.DeadlineExceeded) {
		text = "time-out"
	} else if stream.Err() != nil {
		panic(stream.Err())
	}
	fmt.Println(text)
}
GO
(cd go && go mod init finding && go get github.com/openai/openai-go/v3@v3.99.0 && go build -o ../ask-go .) > /dev/null 2>&1
cat > ask.py <<'PY'
import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai


def chunk(text):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    row = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(row)}\n\n"


comment = ": still working\n\n"
streams = {
    "a part each 0.7 s": [chunk("wh"), 0.7, chunk("o"), 0.7, chunk("le")],
    "comments each 0.7 s": [comment, 0.7, comment, 0.7, chunk("whole")],
    "silent for 2.5 s after a part": [chunk("wh"), 2.5, chunk("ole")],
}


class Streams(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for part in list(streams.values())[int(self.path.split("/")[1])] + ["data: [DONE]\n\n"]:
                if isinstance(part, str):
                    self.wfile.write(part.encode())
                else:
                    time.sleep(part)
        except OSError:
            pass  # The client has timed out.

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Streams)
threading.Thread(target=server.serve_forever, daemon=True).start()


def by_python(url):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=1)
    try:
        messages = [{"role": "user", "content": "hi"}]
        stream = client.chat.completions.create(model="m", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content for chunk in stream)
    except openai.APITimeoutError:
        return "time-out"


def by(*command):
    return lambda url: subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout.strip()


for client, ask in {"py": by_python, "npm": by("node", "ask.mjs"), "go": by("./ask-go")}.items():
    seen = [f"{name}: {ask(f'http://127.0.0.1:{server.server_port}/{row}/v1')}" for row, name in enumerate(streams)]
    print(f"{client}: {', '.join(seen)}")
PY
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected="py: a part each 0.7 s: whole, comments each 0.7 s: whole, silent for 2.5 s after a part: time-out
npm: a part each 0.7 s: whole, comments each 0.7 s: whole, silent for 2.5 s after a part: whole
go: a part each 0.7 s: time-out, comments each 0.7 s: time-out, silent for 2.5 s after a part: time-out"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
