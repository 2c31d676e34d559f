#!/usr/bin/env bash
# Python ollama 0.6.3 makes a tool of a Python function that is given as one. A parameter with a default value is declared as
# `required`, unless its type allows None. A Literal becomes a plain string without its values, a list does not say
# of what, and a docstring in NumPy's style leaves each parameter without its description.
#
# So the model must invent a value for each argument that the function does not need, and does not know which
# ones a Literal allows: calls with wrong arguments, where a schema by hand gives right ones. What helps is a schema by hand.
#
# Output seen:
#   required: ["city", "unit", "days"]
#   unit: {"type": "string", "description": "of the temperature"}
#   days: {"type": "array", "description": "which ones"}
#   NumPy's style: {"type": "string", "description": ""}
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q ollama==0.6.3
cat > ask.py <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Optional

import ollama

received = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"model":"m","message":{"role":"assistant","content":"hi"},"done":true}')

    def log_message(self, *_):
        pass


def weather(city: str, unit: Literal["C", "F"] = "C", days: list[int] = [1], note: Optional[str] = None) -> str:
    """Tells the weather.

    Args:
        city: where
        unit: of the temperature
        days: which ones
        note: for the log
    """


def clock(zone: str) -> str:
    """Tells the time.

    Parameters
    ----------
    zone : str
        the time zone
    """


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
ollama.Client(f"http://127.0.0.1:{server.server_port}").chat("m", [{"role": "user", "content": "hi"}], tools=[weather, clock])
first, second = (each["function"]["parameters"] for each in received[0]["tools"])
print("required:", json.dumps(first["required"]))
print("unit:", json.dumps(first["properties"]["unit"]))
print("days:", json.dumps(first["properties"]["days"]))
print("NumPy's style:", json.dumps(second["properties"]["zone"]))
PY
seen="$(venv/bin/python ask.py)"
echo "$seen"
expected='required: ["city", "unit", "days"]
unit: {"type": "string", "description": "of the temperature"}
days: {"type": "array", "description": "which ones"}
NumPy'"'"'s style: {"type": "string", "description": ""}'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
