#!/usr/bin/env bash
# OpenAI's and Anthropic's libraries (Python openai 3.54.0 and anthropic 2.14.0, npm openai 6.49.0 and @anthropic-ai/sdk
# 1.14.0) obey a response header that no standard has: with `x-should-retry: false` they do not retry a 503, and
# with `x-should-retry: true` they retry a 400, which they do not otherwise. The header wins over the status. Vercel's
# client for the same API does not read it.
#
# So a gateway that has already tried every server can spare itself two more rounds of the same request from each
# client, and a proxy that passes the header on from upstream changes how often its own errors are asked for again.
#
# Output seen (requests that arrived for one call):
#   py openai: 503 3, 503 false 1, 400 1, 400 true 3
#   py anthropic: 503 3, 503 false 1, 400 1, 400 true 3
#   npm openai: 503 3, 503 false 1, 400 1, 400 true 3
#   npm @anthropic-ai/sdk: 503 3, 503 false 1, 400 1, 400 true 3
#   npm @ai-sdk/openai-compatible: 503 3, 503 false 3, 400 1, 400 true 1
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q openai==3.54.0 anthropic==2.14.0
npm install --silent --no-audit --no-fund openai@6.49.0 @anthropic-ai/sdk@1.14.0 @ai-sdk/openai-compatible@2.0.92 ai@6.0.326
cat > ask.mjs <<'JS'
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";
import OpenAI from "openai";

const [, , name, base] = process.argv;
const apiKey = "none";
const messages = [{ role: "user", content: "hi" }];
const baseURL = `${base}/v1`;
const clients = {
  openai: () => new OpenAI({ baseURL, apiKey }).chat.completions.create({ model: "m", messages }),
  "@anthropic-ai/sdk": () => new Anthropic({ baseURL: base, apiKey }).messages.create({ model: "m", messages, max_tokens: 9 }),
  "@ai-sdk/openai-compatible": () => generateText({ model: createOpenAICompatible({ name: "x", baseURL, apiKey })("m"), messages }),
};
await clients[name]().catch(() => {});
JS
cat > ask.py <<'PY'
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import openai

requests = []


class Refuses(BaseHTTPRequestHandler):
    """/STATUS and /STATUS/true or /STATUS/false, for the header."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        requests.append(self.path)
        _, status, should_retry, *_ = self.path.split("/")
        body = b'{"error":{"message":"refused"}}'
        self.send_response(int(status))
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if should_retry in ("true", "false"):
            self.send_header("x-should-retry", should_retry)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
threading.Thread(target=server.serve_forever, daemon=True).start()
messages = [{"role": "user", "content": "hi"}]


def by_openai(base):
    openai.OpenAI(base_url=f"{base}/v1", api_key="none").chat.completions.create(model="m", messages=messages)


def by_anthropic(base):
    anthropic.Anthropic(base_url=base, api_key="none").messages.create(model="m", messages=messages, max_tokens=9)


def by_node(package):
    return lambda base: subprocess.run(["node", "ask.mjs", package, base], check=True, stderr=subprocess.DEVNULL)


clients = {"py openai": by_openai, "py anthropic": by_anthropic}
for package in ("openai", "@anthropic-ai/sdk", "@ai-sdk/openai-compatible"):
    clients[f"npm {package}"] = by_node(package)
for name, ask in clients.items():
    seen = []
    for path in ("503", "503/false", "400", "400/true"):
        requests.clear()
        try:
            ask(f"http://127.0.0.1:{server.server_port}/{path}")
        except (openai.APIError, anthropic.APIError):
            pass
        seen.append(f"{path.replace('/', ' ')} {len(requests)}")
    print(f"{name}: {', '.join(seen)}")
PY
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected="py openai: 503 3, 503 false 1, 400 1, 400 true 3
py anthropic: 503 3, 503 false 1, 400 1, 400 true 3
npm openai: 503 3, 503 false 1, 400 1, 400 true 3
npm @anthropic-ai/sdk: 503 3, 503 false 1, 400 1, 400 true 3
npm @ai-sdk/openai-compatible: 503 3, 503 false 3, 400 1, 400 true 1"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
