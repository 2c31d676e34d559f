#!/usr/bin/env bash
# Python litellm 1.110.2, `ollama/` (/api/generate): of the last line of a stream it takes the token counts and nothing
# else. Text in a line with `"done":true` is dropped, and `done_reason` is not read, so an answer that was cut at num_predict or
# at the end of the context ends with the finish reason `stop`. A whole answer that comes as a stream of one line
# is empty. `ollama_chat/` gives the text and `length`.
#
# So a cache or a translation that answers a stream with one line, in the form of Ollama's whole answers, gives these users an
# empty answer and no error. What helps is to send the text in lines of its own, and a last line without text.
#
# Output seen:
#   ollama/, text in the last line: "hello", stop
#   ollama/, one line: "", stop
#   ollama/, done_reason length: "hello world", stop
#   ollama_chat/, text in the last line: "hello world", stop
#   ollama_chat/, one line: "hello world", stop
#   ollama_chat/, done_reason length: "hello world", length
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

streams = {
    "text in the last line": [("hello", None), (" world", "stop")],
    "one line": [("hello world", "stop")],
    "done_reason length": [("hello", None), (" world", None), ("", "length")],
}


def line(text, reason, chat):
    row = {"model": "m", "done": reason is not None}
    row |= {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
    return json.dumps(row | ({"done_reason": reason, "prompt_eval_count": 3, "eval_count": 2} if reason else {})) + "\n"


class Ollama(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        _, number, _, api = self.path.split("/")
        if api == "show":
            body = json.dumps({"model_info": {"general.architecture": "llama"}, "capabilities": ["completion"]})
        else:
            body = "".join(line(*part, api == "chat") for part in list(streams.values())[int(number)])
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
threading.Thread(target=server.serve_forever, daemon=True).start()
for provider in ("ollama", "ollama_chat"):
    for number, name in enumerate(streams):
        base = f"http://127.0.0.1:{server.server_port}/{number}"
        messages = [{"role": "user", "content": "hi"}]
        text, reason = "", None
        for chunk in litellm.completion(f"{provider}/m", api_base=base, messages=messages, stream=True):
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        print(f"{provider}/, {name}: {json.dumps(text)}, {reason}")
PY
seen="$(LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python ask.py 2> /dev/null)"
echo "$seen"
expected='ollama/, text in the last line: "hello", stop
ollama/, one line: "", stop
ollama/, done_reason length: "hello world", stop
ollama_chat/, text in the last line: "hello world", stop
ollama_chat/, one line: "hello world", stop
ollama_chat/, done_reason length: "hello world", length'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
