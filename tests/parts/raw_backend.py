"""An Ollama whose answers to inference requests are any bytes, and that remembers what it was sent."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from .wire import NotHttp, request

PROBES = ("/api/tags", "/api/ps", "/api/version", "/api/show")
DONE = {"model": "tiny", "created_at": "2025-01-01T00:00:00Z", "done": True, "done_reason": "stop"}
DONE |= {"message": {"role": "assistant", "content": "x"}, "response": "x"}
COUNTS = {"total_duration": 9, "load_duration": 1, "prompt_eval_count": 3, "prompt_eval_duration": 4}
COUNTS |= {"eval_count": 1, "eval_duration": 4}


@dataclass
class Received:
    """A request as a strict parser understands it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def all(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given == name]


@dataclass
class Head:
    """What has arrived on a connection."""

    socket: socket.socket
    number: int
    buffer: bytes = b""
    is_open: bool = field(default=True)

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.more()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data

    def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read(self) -> Received:
        """The next request; NotHttp if there is a doubt what it is."""
        line = self.line().decode("latin-1")
        method, target, version = line.split(" ")
        if version != "HTTP/1.1":
            raise NotHttp(line)
        headers = []
        while field_line := self.line():
            name, value = field_line.decode("latin-1").split(":", 1)
            if name != name.strip() or not name:
                raise NotHttp(repr(field_line))
            headers.append((name.lower(), value.strip()))
        lengths = [value for name, value in headers if name == "content-length"]
        codings = [value for name, value in headers if name == "transfer-encoding"]
        if len(lengths) + len(codings) > 1 or codings not in ([], ["chunked"]):
            raise NotHttp(f"ambiguous framing: {headers}")
        body = b""
        if lengths:
            if not lengths[0].isdecimal():
                raise NotHttp(f"Content-Length: {lengths[0]}")
            body = self.take(int(lengths[0]))
        elif codings:
            while size := int(self.line(), 16):
                body += self.take(size)
                if self.take(2) != b"\r\n":
                    raise NotHttp("a chunk without its end")
            if self.line():
                raise NotHttp("trailers")
        return Received(method, target, headers, body, self.number)


Respond = Callable[[Received, socket.socket], None]


def answer(sock: socket.socket, value: object, status: str = "200 OK") -> None:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)


def whole(received: Received, sock: socket.socket) -> None:
    """The usual answer without streaming."""
    answer(sock, {**DONE, **COUNTS, "embeddings": [[0.5]]})


class RawBackend:
    """Listens on `address`; `respond` answers all requests that are no probes."""

    def __init__(self, respond: Respond = whole, models: tuple[str, ...] = ("tiny",), address: str = "127.0.0.1", port: int = 0):
        self.respond = respond
        self.models = models
        self.received: list[Received] = []
        self.doubts: list[str] = []
        """Requests that the strict parser refused."""
        self.open = 0
        """Connections that are open now."""
        self.accepted = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server((address, port), backlog=1024)
        self.url = f"http://{address}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.accepted += 1
                threading.Thread(target=self._serve, args=(sock, self.accepted), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        head = Head(sock, number)
        with self._lock:
            self.open += 1
        try:
            while True:
                received = head.read()
                if received.target in PROBES:
                    answer(sock, self._probe(received.target))
                    continue
                with self._lock:
                    self.received.append(received)
                self.respond(received, sock)
        except (EOFError, ConnectionError, OSError):
            pass
        except (NotHttp, ValueError) as doubt:
            self.doubts.append(repr(doubt))
        finally:
            with self._lock:
                self.open -= 1
            sock.close()

    def _probe(self, target: str) -> object:
        rows = [
            {"name": f"{name}:latest", "model": f"{name}:latest", "modified_at": "2025-01-01T00:00:00Z", "size": 1}
            | {"digest": f"{number:064x}", "details": {"family": "llama", "families": ["llama"]}}
            for number, name in enumerate(self.models)
        ]
        return {
            "/api/version": {"version": "0.33.0"},
            "/api/tags": {"models": rows},
            "/api/ps": {"models": []},
            "/api/show": {"capabilities": ["completion", "embedding", "tools"], "details": {}, "model_info": {}},
        }[target]


__all__ = ["RawBackend", "Received", "answer", "request", "whole"]
