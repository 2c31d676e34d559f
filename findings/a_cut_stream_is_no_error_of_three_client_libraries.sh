#!/usr/bin/env bash
# A stream whose connection breaks off after its first part comes as an error that is none of the library's own in Python
# anthropic 2.14.0 (httpx2.RemoteProtocolError, or httpx2.ReadTimeout when the server falls silent) and in the npm
# packages openai 6.49.0 and @anthropic-ai/sdk 1.14.0 (TypeError), although they have APIConnectionError for it, and give
# that before the stream has begun. Python openai 3.54.0 gives it in both places; so does the npm SDK's `messages.stream()`, as
# AnthropicError. A stream that ends properly but without `message_stop` is whole for Python anthropic, even for its
# `get_final_message()`, with the stop_reason None; npm's `finalMessage()` fails.
#
# So a program that catches the errors of its library, as their documentation shows, ends with a stack trace when a gateway
# breaks off a stream, which is the one way to say in HTTP that an answer is incomplete, and retries nothing. What helps
# is to catch the transport's errors too, and an error event before the gateway ends the stream.
#
# Output seen (what the program catches, and whether it is an error of the library):
#   py openai: cut before the stream: APIConnectionError, own; cut: APIConnectionError, own; no end event: whole
#   py anthropic: cut before the stream: APIConnectionError, own; cut: RemoteProtocolError, foreign; no end event: whole
#   py anthropic stream(): cut before the stream: APIConnectionError, own; cut: RemoteProtocolError, foreign; no end event: whole
#   npm openai: cut before the stream: APIConnectionError, own; cut: TypeError, foreign; no end event: whole
#   npm anthropic: cut before the stream: APIConnectionError, own; cut: TypeError, foreign; no end event: whole
#   npm anthropic stream(): cut before the stream: APIConnectionError, own; cut: AnthropicError, own; no end event: AnthropicError, own
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > ask.py << 'PY'
import json
import socketserver
import subprocess
import threading

import anthropic
import openai

start = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
start |= {"stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
block = {"index": 0, "content_block": {"type": "text", "text": ""}}
delta = {"index": 0, "delta": {"type": "text_delta", "text": "hel"}}
messages = {"message_start": {"message": start}, "content_block_start": block, "content_block_delta": delta}
choice = {"index": 0, "delta": {"content": "hel"}, "finish_reason": None}
chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
streams = {
    "messages": "".join(f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n" for kind, data in messages.items()),
    "completions": f"data: {json.dumps(chunk)}\n\n",
}
cases = ["cut before the stream", "cut", "no end event"]


class Server(socketserver.StreamRequestHandler):
    def handle(self):
        path = self.rfile.readline().decode().split()[1]
        length = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.rfile.read(length)
        case = cases[int(path.split("/")[1])]
        if case == "cut before the stream":
            return
        body = streams[path.split("/")[-1]].encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        if case == "no end event":
            self.wfile.write(b"0\r\n\r\n")


server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_address[1]}"
prompt = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def by_openai(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for _ in client.chat.completions.create(**prompt, stream=True):
        pass


def by_anthropic(url):
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    for _ in client.messages.create(**prompt, max_tokens=5, stream=True):
        pass


def by_anthropic_stream(url):
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    with client.messages.stream(**prompt, max_tokens=5) as stream:
        stream.get_final_message()


own = (openai.OpenAIError, anthropic.AnthropicError)
clients = {"py openai": by_openai, "py anthropic": by_anthropic, "py anthropic stream()": by_anthropic_stream}
for name, ask in clients.items():
    seen = []
    for number, case in enumerate(cases):
        try:
            ask(f"{base}/{number}")
            seen.append(f"{case}: whole")
        except Exception as error:
            seen.append(f"{case}: {type(error).__name__}, {'own' if isinstance(error, own) else 'foreign'}")
    print(f"{name}: {'; '.join(seen)}", flush=True)
subprocess.run(["node", "ask.mjs", base, *cases], check=True)
PY
cat > ask.mjs << 'JS'
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [base, ...cases] = process.argv.slice(2);
const prompt = { model: "m", messages: [{ role: "user", content: "hi" }] };
const options = { apiKey: "none", maxRetries: 0 };
const openai = (number) => new OpenAI({ ...options, baseURL: `${base}/${number}/v1` });
const anthropic = (number) => new Anthropic({ ...options, baseURL: `${base}/${number}` });
const read = async (stream) => {
  for await (const _ of stream);
};
const clients = {
  "npm openai": async (number) => read(await openai(number).chat.completions.create({ ...prompt, stream: true })),
  "npm anthropic": async (number) =>
    read(await anthropic(number).messages.create({ ...prompt, max_tokens: 5, stream: true })),
  "npm anthropic stream()": (number) => anthropic(number).messages.stream({ ...prompt, max_tokens: 5 }).finalMessage(),
};
for (const [name, ask] of Object.entries(clients)) {
  const seen = [];
  for (const [number, kind] of cases.entries()) {
    const error = await ask(number).then(() => null, (error) => error);
    const own = error instanceof OpenAI.OpenAIError || error instanceof Anthropic.AnthropicError;
    seen.push(`${kind}: ${error ? `${error.constructor.name}, ${own ? "own" : "foreign"}` : "whole"}`);
  }
  console.log(`${name}: ${seen.join("; ")}`);
}
JS
python3 -m venv venv
venv/bin/pip install -q openai==3.54.0 anthropic==2.14.0 httpx2==2.16.2
npm install --silent --no-audit --no-fund openai@6.49.0 @anthropic-ai/sdk@1.14.0
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected='py openai: cut before the stream: APIConnectionError, own; cut: APIConnectionError, own; no end event: whole
py anthropic: cut before the stream: APIConnectionError, own; cut: RemoteProtocolError, foreign; no end event: whole
py anthropic stream(): cut before the stream: APIConnectionError, own; cut: RemoteProtocolError, foreign; no end event: whole
npm openai: cut before the stream: APIConnectionError, own; cut: TypeError, foreign; no end event: whole
npm anthropic: cut before the stream: APIConnectionError, own; cut: TypeError, foreign; no end event: whole
npm anthropic stream(): cut before the stream: APIConnectionError, own; cut: AnthropicError, own; no end event: AnthropicError, own'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
