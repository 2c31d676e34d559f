#!/usr/bin/env bash
# Python ollama 0.6.3: the ids of tool calls do not survive the client. Ollama sends an `id` and an `index` with each call, and
# reads `tool_call_id` of a result. The client's types have none of these fields, so they are missing in the response that the
# program gets, and are taken out of the messages that the program sends, even if they are given by hand.
#
# So two results of the same tool, in parallel calls, cannot be told apart by their id, neither by the program nor by the
# server: only their order is left. A program that keeps the message as it is and sends the results in the
# order in which its tools end mixes them up. What helps is to send the results in the order of the calls.
#
# Output seen:
#   received: [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
#   sent: {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]}
#   sent: {"role": "tool", "content": "rain", "tool_name": "weather"}
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q ollama==0.6.3
cat > ask.py <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import ollama

received = []
call = {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}}}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
        self.wfile.write(json.dumps({"model": "m", "message": message, "done": True}).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = ollama.Client(f"http://127.0.0.1:{server.server_port}")
messages = [
    {"role": "assistant", "tool_calls": [call]},
    {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "call_1"},
]
response = client.chat("m", messages)
print("received:", json.dumps([each.model_dump() for each in response.message.tool_calls]))
for message in received[0]["messages"]:
    print("sent:", json.dumps(message))
PY
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected='received: [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
sent: {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]}
sent: {"role": "tool", "content": "rain", "tool_name": "weather"}'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
