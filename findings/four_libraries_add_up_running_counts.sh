#!/usr/bin/env bash
# Servers of OpenAI's API may send `usage` in each chunk of a stream, as the counts so far: vLLM does with
# `continuous_usage_stats`. Python langchain-openai 1.7.4, pydantic-ai-slim 2.31.1, smolagents 1.26.0 and agno 3.1.10 add all of
# them up. A prompt of 10 tokens with an answer of 2 becomes 50 and 7, and the prompt counts once more with each
# chunk of the answer. litellm 1.110.2, llama-index-llms-openai-like 0.8.1 and haystack-ai 3.4.1 take the last ones.
#
# The same happens with counts that come twice, beside the finish reason and in a chunk of their own.
#
# So the bill, the budget or the limit of such a program grows with the square of the length of the answers, and no text shows it.
# What helps is a gateway or server that sends the counts once, at the end.
#
# Output seen (prompt and answer, really 10 and 2):
#   langchain: once 10 2, twice 20 4, running 50 7
#   pydantic-ai: once 10 2, twice 20 4, running 50 7
#   smolagents: once 10 2, twice 20 4, running 50 7
#   agno: once 10 2, twice 20 4, running 50 7
#   litellm: once 10 2, twice 10 2, running 10 2
#   llama-index: once 10 2, twice 10 2, running 10 2
#   haystack: once 10 2, twice 10 2, running 10 2
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q openai==2.54.0 langchain-openai==1.7.4 "pydantic-ai-slim[openai]==2.31.1" smolagents==1.26.0 \
    agno==3.1.10 litellm==1.110.2 llama-index-llms-openai-like==0.8.1 haystack-ai==3.4.1
cat > ask.py <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm
from agno.agent import Agent
from agno.models.openai.like import OpenAILike as Agno
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage as LlamaMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic_ai.direct import model_request_stream_sync
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from smolagents import OpenAIServerModel
from smolagents.models import ChatMessage as SmolMessage
from smolagents.models import agglomerate_stream_deltas

litellm.suppress_debug_info = True
USAGE = {"include_usage": True}


def chunk(delta, answer=None, reason=None, choices=True):
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    row = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice] if choices else []}
    if answer is not None:
        row["usage"] = {"prompt_tokens": 10, "completion_tokens": answer, "total_tokens": 10 + answer}
    return row


def stream(first, second, third, fourth):
    return [
        chunk({"role": "assistant", "content": ""}, first),
        chunk({"content": "a"}, second),
        chunk({"content": "b"}, third),
        chunk({}, fourth, "stop"),
        chunk({}, 2, choices=False),
    ]


STREAMS = {"once": stream(None, None, None, None), "twice": stream(None, None, None, 2), "running": stream(0, 1, 2, 2)}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for row in STREAMS[self.path.split("/")[1]]:
            self.wfile.write(f"data: {json.dumps(row)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


def langchain(base):
    whole = None
    for part in ChatOpenAI(model="m", base_url=base, api_key="x", stream_usage=True).stream("hi"):
        whole = part if whole is None else whole + part
    return whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]


def pydantic_ai(base):
    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=base, api_key="x"))
    with model_request_stream_sync(model, [ModelRequest.user_text_prompt("hi")]) as parts:
        for _ in parts:
            pass
        return parts.response.usage.input_tokens, parts.response.usage.output_tokens


def smolagents(base):
    message = SmolMessage(role="user", content=[{"type": "text", "text": "hi"}])
    parts = list(OpenAIServerModel("m", api_base=base, api_key="x").generate_stream([message]))
    usage = agglomerate_stream_deltas(parts).token_usage
    return usage.input_tokens, usage.output_tokens


def agno(base):
    agent = Agent(model=Agno(id="m", base_url=base, api_key="x"), telemetry=False)
    last = list(agent.run("hi", stream=True, stream_events=True))[-1]
    return last.metrics.input_tokens, last.metrics.output_tokens


def with_litellm(base):
    messages = [{"role": "user", "content": "hi"}]
    parts = litellm.completion("openai/m", api_base=base, api_key="x", messages=messages, stream=True, stream_options=USAGE)
    usage = litellm.stream_chunk_builder(list(parts)).usage
    return usage.prompt_tokens, usage.completion_tokens


def llama_index(base):
    more = {"stream_options": USAGE}
    model = OpenAILike(model="m", api_base=base, api_key="x", is_chat_model=True, additional_kwargs=more)
    counts = list(model.stream_chat([LlamaMessage(role="user", content="hi")]))[-1].additional_kwargs
    return counts["prompt_tokens"], counts["completion_tokens"]


def haystack(base):
    secret, more = Secret.from_token("x"), {"stream_options": USAGE}
    generator = OpenAIChatGenerator(
        api_key=secret, model="m", api_base_url=base, streaming_callback=lambda _: None, generation_kwargs=more
    )
    usage = generator.run([ChatMessage.from_user("hi")])["replies"][0].meta["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
asks = {"langchain": langchain, "pydantic-ai": pydantic_ai, "smolagents": smolagents, "agno": agno}
asks |= {"litellm": with_litellm, "llama-index": llama_index, "haystack": haystack}
for name, ask in asks.items():
    seen = []
    for kind in STREAMS:
        counts = ask(f"http://127.0.0.1:{server.server_port}/{kind}/v1")
        seen.append(f"{kind} {counts[0]} {counts[1]}")
    print(f"{name}: {', '.join(seen)}")
PY
seen="$(LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python ask.py 2> ask.log)" || { cat ask.log; exit 1; }
echo "$seen"
expected="langchain: once 10 2, twice 20 4, running 50 7
pydantic-ai: once 10 2, twice 20 4, running 50 7
smolagents: once 10 2, twice 20 4, running 50 7
agno: once 10 2, twice 20 4, running 50 7
litellm: once 10 2, twice 10 2, running 10 2
llama-index: once 10 2, twice 10 2, running 10 2
haystack: once 10 2, twice 10 2, running 10 2"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
