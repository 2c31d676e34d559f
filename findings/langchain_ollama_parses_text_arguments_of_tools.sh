#!/usr/bin/env bash
# Python langchain-ollama 1.1.0: a text argument of a tool call that reads as a JSON object or list, or as a Python
# literal of one, is given to the tool as that object or list, whatever the schema of the tool says. A tool with the
# argument `text: str` then fails with a validation error of pydantic, and one without types gets a dict where it expects
# text. The same call in OpenAI's format, as Ollama's /v1 gives it, comes from langchain-openai 1.7.4 with the text as it
# was sent.
#
# So an agent that writes files cannot write a JSON file: its tool refuses the call, although model and server have answered
# as the schema asks. What helps is langchain-openai over /v1, or a tool that takes objects too and writes them as JSON.
#
# Output seen:
#   langchain-ollama: {"path": "a.json", "text": {"port": 80}}, the tool: ValidationError
#   langchain-ollama: {"path": "a.json", "text": [80, 443]}, the tool: ValidationError
#   langchain-ollama: {"path": "a.py", "text": {"port": 80}}, the tool: ValidationError
#   langchain-ollama: {"path": "a.txt", "text": "80"}, the tool: 2 characters
#   langchain-openai: {"path": "a.json", "text": "{\"port\": 80}"}, the tool: 12 characters
#   langchain-openai: {"path": "a.json", "text": "[80, 443]"}, the tool: 9 characters
#   langchain-openai: {"path": "a.py", "text": "{'port': 80}"}, the tool: 12 characters
#   langchain-openai: {"path": "a.txt", "text": "80"}, the tool: 2 characters
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > ask.py << 'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI

files = [("a.json", '{"port": 80}'), ("a.json", "[80, 443]"), ("a.py", "{'port': 80}"), ("a.txt", "80")]


@tool
def write(path: str, text: str) -> str:
    """Write a file."""
    return f"{len(text)} characters"


class Ollama(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path, text = files[int(asked["messages"][0]["content"])]
        arguments = {"path": path, "text": text}
        if self.path == "/api/chat":
            call = {"id": "call_0", "function": {"index": 0, "name": "write", "arguments": arguments}}
            message = {"role": "assistant", "content": "", "tool_calls": [call]}
            rows = [
                {"model": "m", "message": message, "done": False},
                {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
            ]
            kind, body = "application/x-ndjson", "".join(json.dumps(row) + "\n" for row in rows)
        else:
            function = {"name": "write", "arguments": json.dumps(arguments)}
            call = {"id": "call_0", "index": 0, "type": "function", "function": function}
            message = {"role": "assistant", "content": "", "tool_calls": [call]}
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            kind, body = "application/json", json.dumps(answer)
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
models = {
    "langchain-ollama": ChatOllama(model="m", base_url=base),
    "langchain-openai": ChatOpenAI(model="m", base_url=f"{base}/v1", api_key="none"),
}
for name, model in models.items():
    for number in range(len(files)):
        [call] = model.bind_tools([write]).invoke(str(number)).tool_calls
        try:
            result = write.invoke(call["args"])
        except Exception as error:
            result = type(error).__name__
        print(f"{name}: {json.dumps(call['args'])}, the tool: {result}")
PY
python3 -m venv venv
venv/bin/pip install -q langchain-ollama==1.1.0 langchain-openai==1.7.4 langchain-core==1.8.3
seen="$(venv/bin/python ask.py 2> /dev/null)"
echo "$seen"
expected='langchain-ollama: {"path": "a.json", "text": {"port": 80}}, the tool: ValidationError
langchain-ollama: {"path": "a.json", "text": [80, 443]}, the tool: ValidationError
langchain-ollama: {"path": "a.py", "text": {"port": 80}}, the tool: ValidationError
langchain-ollama: {"path": "a.txt", "text": "80"}, the tool: 2 characters
langchain-openai: {"path": "a.json", "text": "{\"port\": 80}"}, the tool: 12 characters
langchain-openai: {"path": "a.json", "text": "[80, 443]"}, the tool: 9 characters
langchain-openai: {"path": "a.py", "text": "{'"'port'"': 80}"}, the tool: 12 characters
langchain-openai: {"path": "a.txt", "text": "80"}, the tool: 2 characters'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
