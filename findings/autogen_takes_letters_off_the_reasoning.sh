#!/usr/bin/env bash
# Python autogen-ext 0.7.5, its client for OpenAI's API: the reasoning of a streamed answer (`reasoning_content`, as vLLM, llama.cpp and
# DeepSeek send it) loses letters at both ends. It is framed with <think> and </think> and taken out of the frame by
# lstrip and rstrip, which take sets of letters: all of t, h, i, n, k, <, > and / at the ends go. A reasoning of
# such letters alone is gone. Without streaming it is whole.
#
# And if `usage` comes in the chunk that has the finish reason, as several servers send it, the finish
# reason is lost: an answer that was cut at its longest length is "unknown" and no longer "length".
#
# So the thought in a log or in front of a user is not the model's, and a program that looks for cut
# answers misses them, only where it streams.
#
# Output seen:
#   reasoning: streamed " about it: five times te", whole "think about it: five times ten"
#   finish reason: streamed unknown, whole length
#   finish reason, usage in its own chunk: streamed length, whole length
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "autogen-ext[openai]==0.7.5" openai==2.54.0
cat > ask.py <<'PY'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
THOUGHT = "think about it: five times ten"


def chunk(delta, reason=None, **more):
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices} | more


STREAMS = {
    "reasoning": [chunk({"reasoning_content": THOUGHT}), chunk({"content": "50"}), chunk({}, "stop")],
    "together": [chunk({"content": "hal"}), chunk({}, "length", usage=USAGE)],
    "apart": [chunk({"content": "hal"}), chunk({}, "length"), chunk({}, usage=USAGE) | {"choices": []}],
}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        rows = STREAMS[self.path.split("/")[1]]
        self.send_response(200)
        if request.get("stream"):
            self.send_header("content-type", "text/event-stream")
            body = "".join(f"data: {json.dumps(row)}\n\n" for row in rows) + "data: [DONE]\n\n"
        else:
            self.send_header("content-type", "application/json")
            choices = [row["choices"][0] for row in rows if row["choices"]]
            message = {"role": "assistant"}
            for choice in choices:
                message |= choice["delta"]
            whole = {"index": 0, "message": message, "finish_reason": choices[-1]["finish_reason"]}
            row = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [whole], "usage": USAGE}
            body = json.dumps(row)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
INFO = {"vision": False, "function_calling": False, "json_output": False, "family": "unknown", "structured_output": False}
HI = [UserMessage(content="hi", source="user")]


async def ask(name):
    base = f"http://127.0.0.1:{server.server_port}/{name}/v1"
    client = OpenAIChatCompletionClient(model="m", base_url=base, api_key="x", model_info=INFO)
    async for part in client.create_stream(HI, include_usage=True):
        last = part
    return last, await client.create(HI)


async def main():
    streamed, whole = await ask("reasoning")
    print(f'reasoning: streamed "{streamed.thought}", whole "{whole.thought}"')
    for name, text in [("together", "finish reason"), ("apart", "finish reason, usage in its own chunk")]:
        streamed, whole = await ask(name)
        print(f"{text}: streamed {streamed.finish_reason}, whole {whole.finish_reason}")


asyncio.run(main())
PY
seen="$(venv/bin/python ask.py 2> ask.log)" || { cat ask.log; exit 1; }
echo "$seen"
expected='reasoning: streamed " about it: five times te", whole "think about it: five times ten"
finish reason: streamed unknown, whole length
finish reason, usage in its own chunk: streamed length, whole length'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
