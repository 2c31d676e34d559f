#!/usr/bin/env bash
# Ollama says `done_reason: "length"` in the last line of an answer that ended at `num_predict` or at the end of the context. Python
# autogen-ext 0.7.5 (OllamaChatCompletionClient) knows the word for OpenAI's API, and gives "unknown" here. ollama-haystack 7.0.2
# (haystack-ai 3.4.1) has no entry for "length": `finish_reason` is None in the metadata, and the raw word is not there either. Both do
# the same with and without streaming. litellm 1.110.2, langchain-ollama 1.1.0 and llama-index-llms-ollama 0.11.0 give "length".
#
# So an agent cannot tell half an answer, or half of a JSON text, from an unknown but whole one, and does not ask with
# a longer limit. What helps is to compare the count of tokens with `num_predict`, or to use Ollama's /v1.
#
# Output seen:
#   autogen: stop stop, length unknown
#   haystack: stop stop, length None
#   litellm: stop stop, length length
#   langchain: stop stop, length length
#   llama-index: stop stop, length length
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "autogen-ext[ollama]==0.7.5" ollama-haystack==7.0.2 haystack-ai==3.4.1 litellm==1.110.2 \
    langchain-ollama==1.1.0 llama-index-llms-ollama==0.11.0
cat > ask.py <<'PY'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm
from autogen_core.models import UserMessage
from autogen_ext.models.ollama import OllamaChatCompletionClient
from haystack.dataclasses import ChatMessage
from haystack_integrations.components.generators.ollama import OllamaChatGenerator
from langchain_ollama import ChatOllama
from llama_index.core.llms import ChatMessage as LlamaMessage
from llama_index.llms.ollama import Ollama


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/api/show"):
            row = {"model_info": {"general.architecture": "llama"}, "capabilities": ["completion"], "details": {}}
        else:
            message = {"role": "assistant", "content": "hal"}
            row = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": True}
            row |= {"done_reason": self.path.split("/")[1], "prompt_eval_count": 3, "eval_count": 2, "total_duration": 9}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(row).encode() + b"\n")

    def log_message(self, *_):
        pass


def autogen(base):
    info = {"vision": False, "function_calling": False, "json_output": False, "family": "unknown", "structured_output": False}
    client = OllamaChatCompletionClient(model="m", host=base, model_info=info)
    return asyncio.run(client.create([UserMessage(content="hi", source="user")])).finish_reason


def haystack(base):
    meta = OllamaChatGenerator(model="m", url=base).run([ChatMessage.from_user("hi")])["replies"][0].meta
    assert "length" not in json.dumps(meta, default=str)
    return meta.get("finish_reason")


def with_litellm(base):
    messages = [{"role": "user", "content": "hi"}]
    return litellm.completion("ollama_chat/m", api_base=base, messages=messages).choices[0].finish_reason


def langchain(base):
    return ChatOllama(model="m", base_url=base).invoke("hi").response_metadata["done_reason"]


def llama_index(base):
    return Ollama(model="m", base_url=base).chat([LlamaMessage(role="user", content="hi")]).raw["done_reason"]


litellm.suppress_debug_info = True
server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
asks = {"autogen": autogen, "haystack": haystack, "litellm": with_litellm, "langchain": langchain, "llama-index": llama_index}
for name, ask in asks.items():
    seen = [f"{reason} {ask(f'http://127.0.0.1:{server.server_port}/{reason}')}" for reason in ("stop", "length")]
    print(f"{name}: {', '.join(seen)}")
PY
seen="$(LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python ask.py 2> ask.log)" || { cat ask.log; exit 1; }
echo "$seen"
expected="autogen: stop stop, length unknown
haystack: stop stop, length None
litellm: stop stop, length length
langchain: stop stop, length length
llama-index: stop stop, length length"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
