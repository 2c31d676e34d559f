#!/usr/bin/env bash
# A 429 with `Retry-After: 130` means something else to each client, all with their default of two retries: Python openai
# 3.54.0 raises the error at once and does not retry; npm openai 6.49.0 and Python anthropic 2.14.0 keep the caller waiting;
# npm @ai-sdk/openai-compatible 2.0.92 retries after 2 s and 4 s more, as if there were no header. With 30 s all
# of them wait.
#
# So a long Retry-After, which is to keep clients away, brings some of them back sooner than a short one, and makes others
# look as if they hung. What helps is a value of at most 60, or, for a refusal that lasts for hours, the header
# `x-should-retry: false` beside it, which npm openai and Python anthropic obey.
#
# Output seen (20 s after the first request):
#   py openai: 30 waits, 130 failed after 1 request(s)
#   py anthropic: 30 waits, 130 waits
#   npm openai: 30 waits, 130 waits
#   npm @ai-sdk/openai-compatible: 30 waits, 130 failed after 3 request(s)
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q openai==3.54.0 anthropic==2.14.0
npm install --silent --no-audit --no-fund openai@6.49.0 @ai-sdk/openai-compatible@2.0.92 ai@6.0.326
cat > ask.mjs <<'JS'
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";
import OpenAI from "openai";

const [, , name, base] = process.argv;
const [apiKey, baseURL, messages] = ["none", `${base}/v1`, [{ role: "user", content: "hi" }]];
const clients = {
  openai: () => new OpenAI({ baseURL, apiKey }).chat.completions.create({ model: "m", messages }),
  "@ai-sdk/openai-compatible": () => generateText({ model: createOpenAICompatible({ name: "x", baseURL, apiKey })("m"), messages }),
};
await clients[name]();
JS
cat > ask.py <<'PY'
import sys

import anthropic
import openai

name, base = sys.argv[1:]
messages = [{"role": "user", "content": "hi"}]
if name == "openai":
    openai.OpenAI(base_url=f"{base}/v1", api_key="none").chat.completions.create(model="m", messages=messages)
else:
    anthropic.Anthropic(base_url=base, api_key="none").messages.create(model="m", messages=messages, max_tokens=9)
PY
cat > serve.py <<'PY'
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

requests = []
first = threading.Event()


class Refuses(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        requests.append(self.path)
        first.set()
        self.send_response(429)
        self.send_header("content-type", "application/json")
        self.send_header("retry-after", self.path.split("/")[1])
        self.end_headers()
        self.wfile.write(b'{"error":{"message":"too many requests","type":"rate_limit_error"}}')

    def log_message(self, *_):
        pass


def seen(command, name, seconds):
    requests.clear()
    first.clear()
    base = f"http://127.0.0.1:{server.server_port}/{seconds}"
    client = subprocess.Popen([*command, name, base], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert first.wait(120)
    try:
        client.wait(20)
        return f"failed after {len(requests)} request(s)"
    except subprocess.TimeoutExpired:
        return "waits" if len(requests) == 1 else f"{len(requests)} requests"
    finally:
        client.kill()
        client.wait()


server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
threading.Thread(target=server.serve_forever, daemon=True).start()
python, node = ["venv/bin/python", "ask.py"], ["node", "ask.mjs"]
for command, name in [
    (python, "openai"),
    (python, "anthropic"),
    (node, "openai"),
    (node, "@ai-sdk/openai-compatible"),
]:
    label = f"{'py' if command is python else 'npm'} {name}"
    print(f"{label}: 30 {seen(command, name, 30)}, 130 {seen(command, name, 130)}")
PY
seen="$(venv/bin/python serve.py)"
echo "$seen"
expected="py openai: 30 waits, 130 failed after 1 request(s)
py anthropic: 30 waits, 130 waits
npm openai: 30 waits, 130 waits
npm @ai-sdk/openai-compatible: 30 waits, 130 failed after 3 request(s)"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
