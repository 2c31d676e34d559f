#!/usr/bin/env bash
# Python semantic-kernel 1.45.0, its client for Ollama: two tool calls in a stream become one. Ollama sends each call in a
# line of its own, with an id and an index. The client keeps neither of them, and the sum of the parts, which is how the
# library puts a stream together, has one call: the name of the first with the arguments of both. Without
# streaming there are two.
#
# So an agent runs the first tool with the second one's arguments among its own, and never runs the second. No
# error says so. What helps is to ask without streaming when tools are given.
#
# Output seen:
#   streamed: weather({"city": "Oslo", "zone": "CET"})
#   whole: weather({"city": "Oslo"}), clock({"zone": "CET"})
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q semantic-kernel==1.45.0 ollama==0.6.3
cat > ask.py <<'PY'
import asyncio
import functools
import json
import operator
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from semantic_kernel.connectors.ai.ollama import OllamaChatCompletion, OllamaChatPromptExecutionSettings
from semantic_kernel.contents import ChatHistory, FunctionCallContent


def call(index, name, arguments):
    return {"id": f"call_{index}", "function": {"index": index, "name": name, "arguments": arguments}}


def line(calls, done):
    row = {"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": calls}, "done": done}
    return json.dumps(row | ({"done_reason": "stop", "prompt_eval_count": 3, "eval_count": 9} if done else {})) + "\n"


calls = [call(0, "weather", {"city": "Oslo"}), call(1, "clock", {"zone": "CET"})]


class Ollama(BaseHTTPRequestHandler):
    def do_POST(self):
        stream = json.loads(self.rfile.read(int(self.headers["content-length"])))["stream"]
        body = "".join(line([each], False) for each in calls) + line([], True) if stream else line(calls, True)
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson" if stream else "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
threading.Thread(target=server.serve_forever, daemon=True).start()


def shown(message):
    calls = [item for item in message.items if isinstance(item, FunctionCallContent)]
    return ", ".join(f"{each.name}({json.dumps(each.arguments)})" for each in calls)


async def main():
    client = OllamaChatCompletion(ai_model_id="m", host=f"http://127.0.0.1:{server.server_port}")
    history = ChatHistory()
    history.add_user_message("How is Oslo, and how late is it?")
    settings = OllamaChatPromptExecutionSettings()
    parts = [part async for part in client.get_streaming_chat_message_content(history, settings)]
    print("streamed:", shown(functools.reduce(operator.add, parts)))
    print("whole:", shown(await client.get_chat_message_content(history, settings)))


asyncio.run(main())
PY
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected='streamed: weather({"city": "Oslo", "zone": "CET"})
whole: weather({"city": "Oslo"}), clock({"zone": "CET"})'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
