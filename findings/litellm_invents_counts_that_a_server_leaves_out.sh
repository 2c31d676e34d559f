#!/usr/bin/env bash
# Python litellm 1.110.2: where an answer has no token counts, it counts by itself and gives the result as the `usage` of the
# server. Nothing marks it as a guess. For a model whose name it does not know it takes a tokenizer of OpenAI's and the overhead of
# OpenAI's chat format. Streams of OpenAI's API without `usage` and Ollama's answers without `prompt_eval_count` and `eval_count` get
# such numbers. Ollama's Go types leave a count out when it is 0, so a count of 0 becomes another one. ollama
# 0.6.3 and langchain-ollama 1.1.0 give None.
#
# So a bill or a budget may rest on counts that no server has made, and differ from the metrics of the server without
# a sign of a fault. What helps is a server or gateway that always sends the counts, zeros included.
#
# Output seen (prompt and answer; the server sends none):
#   litellm, Ollama, whole: 8 2
#   litellm, Ollama, streamed: 8 2
#   litellm, OpenAI, streamed: 8 2
#   ollama: None None
#   langchain: None
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q litellm==1.110.2 ollama==0.6.3 langchain-ollama==1.1.0
cat > ask.py <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm
import ollama
from langchain_ollama import ChatOllama

litellm.suppress_debug_info = True
HI = [{"role": "user", "content": "hi"}]
LINE = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": True, "done_reason": "stop"}
LINE["message"] = {"role": "assistant", "content": "hi there"}
CHOICE = {"index": 0, "delta": {"role": "assistant", "content": "hi there"}, "finish_reason": "stop"}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [CHOICE]}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        if self.path.startswith("/v1"):
            self.send_header("content-type", "text/event-stream")
            body = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"
        elif self.path == "/api/show":
            body = json.dumps({"model_info": {"general.architecture": "llama"}, "capabilities": ["completion"]})
        else:
            body = json.dumps(LINE) + "\n"
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def counts(response):
    return f"{response.usage.prompt_tokens} {response.usage.completion_tokens}"


def streamed(model, base):
    parts = litellm.completion(model, api_base=base, api_key="x", messages=HI, stream=True)
    return counts(litellm.stream_chunk_builder(list(parts)))


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
print("litellm, Ollama, whole:", counts(litellm.completion("ollama_chat/m", api_base=base, messages=HI)))
print("litellm, Ollama, streamed:", streamed("ollama_chat/m", base))
print("litellm, OpenAI, streamed:", streamed("openai/m", base + "/v1"))
response = ollama.Client(base).chat("m", HI)
print("ollama:", response.prompt_eval_count, response.eval_count)
print("langchain:", ChatOllama(model="m", base_url=base).invoke("hi").usage_metadata)
PY
seen="$(LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python ask.py 2> ask.log)" || { cat ask.log; exit 1; }
echo "$seen"
expected="litellm, Ollama, whole: 8 2
litellm, Ollama, streamed: 8 2
litellm, OpenAI, streamed: 8 2
ollama: None None
langchain: None"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
