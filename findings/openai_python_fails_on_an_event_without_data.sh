#!/usr/bin/env bash
# Python openai 3.54.0: a server-sent event without data ends the stream with a json.JSONDecodeError, which is no
# openai.OpenAIError. The HTML standard says that such an event is not dispatched. Two valid streams have one: a stream
# with a `retry:` field of its own, and a stream with an `id:` that is kept open by comments. After an id, each empty
# line counts as an event, so the first comment after the first id ends the stream. Comments alone are fine, and so
# are npm openai 6.49.0 and Python anthropic 2.14.0 with all three.
#
# So a gateway that keeps a stream open with comments must take away the `id:` lines of its servers, and must not
# send `retry:`.
#
# Output seen:
#   py openai, comments: hello
#   py openai, comments after an id: JSONDecodeError
#   py openai, retry: JSONDecodeError
#   npm openai, comments: hello
#   npm openai, comments after an id: hello
#   npm openai, retry: hello
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q openai==3.54.0
npm install --silent --no-audit --no-fund openai@6.49.0
cat > ask.mjs <<'JS'
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const request = { model: "m", stream: true, messages: [{ role: "user", content: "hi" }] };
let text = "";
for await (const chunk of await client.chat.completions.create(request)) text += chunk.choices[0].delta.content;
console.log(text);
JS
cat > ask.py <<'PY'
import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai


def chunk(text):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    row = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(row)}\n\n"


comment, end = ": still working\n\n", "data: [DONE]\n\n"
streams = {
    "comments": comment + chunk("hel") + comment + chunk("lo") + end,
    "comments after an id": "id: 1\n" + chunk("hel") + comment + "id: 2\n" + chunk("lo") + end,
    "retry": "retry: 3000\n\n" + chunk("hel") + chunk("lo") + end,
}


class Streams(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = list(streams.values())[int(self.path.split("/")[1])].encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Streams)
threading.Thread(target=server.serve_forever, daemon=True).start()


def by_python(url):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    return "".join(chunk.choices[0].delta.content for chunk in stream)


def by_node(url):
    return subprocess.run(["node", "ask.mjs", url], check=True, capture_output=True, text=True).stdout.strip()


for client, ask in (("py openai", by_python), ("npm openai", by_node)):
    for number, name in enumerate(streams):
        try:
            seen = ask(f"http://127.0.0.1:{server.server_port}/{number}/v1")
        except json.JSONDecodeError as error:
            assert not isinstance(error, openai.OpenAIError)
            seen = "JSONDecodeError"
        print(f"{client}, {name}: {seen}")
PY
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected="py openai, comments: hello
py openai, comments after an id: JSONDecodeError
py openai, retry: JSONDecodeError
npm openai, comments: hello
npm openai, comments after an id: hello
npm openai, retry: hello"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
