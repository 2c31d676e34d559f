#!/usr/bin/env bash
# The Go types of Ollama 0.17.4 leave a token count out when it is 0 (`omitempty`), so the last line of a valid stream can have
# neither `prompt_eval_count` nor `eval_count`. Python strands-agents 1.62.0 and ollama-haystack 7.0.2 (haystack-ai 3.4.1) add
# the two without a look: the run ends with a TypeError ("unsupported operand") after the whole text has arrived, and has no
# result. strands-agents needs `total_duration` too. langchain-ollama 1.1.0 and llama-index-llms-ollama
# 0.11.0 give the text, without usage.
#
# So a cache, or a translation from a server that counts no tokens, must write the counts in the last line, zeros
# included, and `total_duration`; otherwise these users see a failure of their own program after a good answer.
#
# Output seen:
#   strands: all: "hello", no durations: TypeError, no eval_count: TypeError, no counts: TypeError, zeros: "hello"
#   haystack: all: "hello", no durations: "hello", no eval_count: TypeError, no counts: TypeError, zeros: "hello"
#   langchain: all: "hello", no durations: "hello", no eval_count: "hello", no counts: "hello", zeros: "hello"
#   llama-index: all: "hello", no durations: "hello", no eval_count: "hello", no counts: "hello", zeros: "hello"
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > ask.py << 'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from haystack.dataclasses import ChatMessage as HaystackMessage
from haystack_integrations.components.generators.ollama import OllamaChatGenerator
from langchain_ollama import ChatOllama
from llama_index.core.llms import ChatMessage
from llama_index.llms.ollama import Ollama as LlamaIndex
from strands import Agent
from strands.models.ollama import OllamaModel

counts = {"prompt_eval_count": 3, "eval_count": 2}
durations = {name: 1000000 for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")}
lasts = {
    "all": counts | durations,
    "no durations": counts,
    "no eval_count": {"prompt_eval_count": 3} | durations,
    "no counts": durations,
    "zeros": {name: 0 for name in counts} | durations,
}


class Ollama(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        rows = [
            {"message": {"role": "assistant", "content": "hello"}, "done": False},
            {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"} | last,
        ]
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.end_headers()
        self.wfile.write("".join(json.dumps({"model": "m"} | row) + "\n" for row in rows).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


def strands():
    return str(Agent(model=OllamaModel(url, model_id="m"), callback_handler=None)("hi")).strip()


def haystack():
    generator = OllamaChatGenerator(model="m", url=url, streaming_callback=lambda chunk: None)
    return generator.run(messages=[HaystackMessage.from_user("hi")])["replies"][0].text


def langchain():
    return ChatOllama(model="m", base_url=url).invoke("hi").text


def llama_index():
    model = LlamaIndex(model="m", base_url=url, context_window=1000)
    return "".join(part.delta for part in model.stream_chat([ChatMessage(role="user", content="hi")]))


clients = {"strands": strands, "haystack": haystack, "langchain": langchain, "llama-index": llama_index}
for client, ask in clients.items():
    seen = []
    for name, last in lasts.items():
        try:
            answer = json.dumps(ask())
        except TypeError as error:
            answer = type(error).__name__
        seen.append(f"{name}: {answer}")
    print(f"{client}: {', '.join(seen)}")
PY
python3 -m venv venv
venv/bin/pip install -q strands-agents==1.62.0 ollama-haystack==7.0.2 haystack-ai==3.4.1 langchain-ollama==1.1.0 \
    llama-index-llms-ollama==0.11.0 ollama==0.6.3
seen="$(HAYSTACK_TELEMETRY_ENABLED=False venv/bin/python ask.py 2> /dev/null)"
echo "$seen"
expected='strands: all: "hello", no durations: TypeError, no eval_count: TypeError, no counts: TypeError, zeros: "hello"
haystack: all: "hello", no durations: "hello", no eval_count: TypeError, no counts: TypeError, zeros: "hello"
langchain: all: "hello", no durations: "hello", no eval_count: "hello", no counts: "hello", zeros: "hello"
llama-index: all: "hello", no durations: "hello", no eval_count: "hello", no counts: "hello", zeros: "hello"'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
