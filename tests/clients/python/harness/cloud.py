"""A stand-in for Groq's API, to see what comes from the cloud through the gateway."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLOUD_MODEL = "in-the-cloud"
"""No backend has it; the cloud service does, under another name."""

_USAGE = {
    "queue_time": 0.01,
    "prompt_tokens": 12,
    "prompt_time": 0.001,
    "completion_tokens": 5,
    "completion_time": 0.02,
    "total_tokens": 17,
    "total_time": 0.021,
}


class Cloud:
    """The service. A prompt that contains `break off` gets a stream with an error in its middle."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def settings(self) -> dict[str, str]:
        """The settings of a gateway that sends what no backend has to it."""
        return {
            "LLAMATOWER_CLOUD_URL": f"http://127.0.0.1:{self._server.server_port}/openai/v1",
            "LLAMATOWER_CLOUD_WHEN": "missing",
            "LLAMATOWER_CLOUD_MODELS": f"{CLOUD_MODEL}=openai/gpt-oss-20b",
            "LLAMATOWER_CLOUD_ANONYMOUS": "true",
            "GROQ_API_KEY": "gsk-of-the-tests",
        }

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked.get("stream"):
            self._send("text/event-stream", _stream(asked))
        else:
            self._send("application/json", json.dumps(_whole(asked)))

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("x-groq-region", "test")
        self.end_headers()
        self.wfile.write(text.encode())


def _whole(asked: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello", "reasoning": "Say it."}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1764000000,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _USAGE,
        "usage_breakdown": None,
        "system_fingerprint": "fp_1",
        "x_groq": {"id": "req_1", "seed": 1},
        "service_tier": "on_demand",
    }


def _stream(asked: dict[str, Any]) -> str:
    """Chunks as Groq sends them: `x_groq` is in the first and in the last one."""
    begins = [
        _chunk(asked, {"role": "assistant", "content": ""}, x_groq={"id": "req_1", "seed": 1}),
        _chunk(asked, {"reasoning": "Say it."}),
        _chunk(asked, {"content": "Hel"}),
    ]
    if "break off" in json.dumps(asked["messages"]):
        fault = _chunk(asked, None, x_groq={"id": "req_1", "error": "over capacity"})
        return _events([*begins, fault])
    last = {"id": "req_1", "seed": 1, "usage": _USAGE}
    ends = [_chunk(asked, {"content": "lo"}), _chunk(asked, {}, finish="stop", x_groq=last)]
    return _events([*begins, *ends]) + "data: [DONE]\n\n"


def _chunk(
    asked: dict[str, Any],
    delta: dict[str, str] | None,
    finish: str | None = None,
    x_groq: dict[str, Any] | None = None,
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1764000000,
        "model": asked["model"],
        "system_fingerprint": "fp_1",
        "choices": [] if delta is None else [choice],
    }
    return chunk if x_groq is None else {**chunk, "x_groq": x_groq}


def _events(chunks: list[dict[str, Any]]) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
