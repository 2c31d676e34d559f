#!/usr/bin/env bash
# Python litellm 1.110.2, `ollama_chat/`: of the tool calls in a stream each one has the index 0, with another id, although
# Ollama sends an id and an index with each. In OpenAI's format the parts of a stream with the same index are one call.
# litellm's own stream_chunk_builder so makes one call of two: the name of the last, and the arguments of both,
# which are no JSON. Without streaming there are two calls.
#
# So whoever puts LiteLLM before Ollama loses parallel tool calls in every client that follows OpenAI's format, while a
# gateway that passes the stream on, or uses Ollama's own /v1, keeps them.
#
# Output seen:
#   streamed: index 0 weather({"city": "Oslo"}), index 0 clock({"zone": "CET"})
#   put together: clock({"city": "Oslo"}{"zone": "CET"})
#   whole: weather({"city": "Oslo"}), clock({"zone": "CET"})
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q litellm==1.110.2
cat > ask.py <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm

litellm.suppress_debug_info = True


def call(index, name, arguments):
    return {"id": f"call_{index}", "function": {"index": index, "name": name, "arguments": arguments}}


def line(calls, done):
    row = {"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": calls}, "done": done}
    return json.dumps(row | ({"done_reason": "stop", "prompt_eval_count": 3, "eval_count": 9} if done else {})) + "\n"


calls = [call(0, "weather", {"city": "Oslo"}), call(1, "clock", {"zone": "CET"})]


class Ollama(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/show":
            body = json.dumps({"model_info": {"general.architecture": "llama"}, "capabilities": ["completion", "tools"]})
        elif request["stream"]:
            body = "".join(line([each], False) for each in calls) + line([], True)
        else:
            body = line(calls, True)
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson" if request.get("stream") else "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
threading.Thread(target=server.serve_forever, daemon=True).start()


def shown(calls):
    return ", ".join(f"{each.function.name}({each.function.arguments})" for each in calls)


def ask(stream):
    messages = [{"role": "user", "content": "How is Oslo, and how late is it?"}]
    base = f"http://127.0.0.1:{server.server_port}"
    return litellm.completion("ollama_chat/m", api_base=base, messages=messages, stream=stream)


chunks = list(ask(True))
deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
print("streamed:", ", ".join(f"index {each.index} {shown([each])}" for each in deltas))
print("put together:", shown(litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls))
print("whole:", shown(ask(False).choices[0].message.tool_calls))
PY
seen="$(LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python ask.py 2> /dev/null)"
echo "$seen"
expected='streamed: index 0 weather({"city": "Oslo"}), index 0 clock({"zone": "CET"})
put together: clock({"city": "Oslo"}{"zone": "CET"})
whole: weather({"city": "Oslo"}), clock({"zone": "CET"})'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
