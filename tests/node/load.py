"""Clients that send requests without a pause, and the outcome of each request."""

import http.client
import itertools
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

# The size of a photo.
LARGE = 4 << 20
KEY = "llt_a-key-of-the-trial"
"""What all requests show; the Secret has its digest."""
HEADERS = {"Authorization": f"Bearer {KEY}"}
# A node remembers for minutes which pod a source port was routed to, so each port is used once in that time.
_SOURCE_PORTS = itertools.cycle(range(12_000, 30_000))


@dataclass
class Request:
    kind: str
    begun: float
    ended: float
    outcome: str  # "ok", "told" (an error was sent), "cut" (visibly broken), or "lost" (looks whole, but is not)
    backend: str
    detail: str = ""


class _Bound(http.client.HTTPConnection):
    """A connection from a socket that is bound already: a port that is tried and bound later may be taken in between."""

    def __init__(self, bound: socket.socket, host: str, port: int):
        super().__init__(host, port, timeout=400)
        self._bound = bound

    def connect(self) -> None:
        self.sock = self._bound
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def unconnected(host: str, port: int) -> http.client.HTTPConnection:
    """A connection from a source port that no other connection uses now or used in the last minutes."""
    for source in _SOURCE_PORTS:
        bound = socket.socket()
        try:
            bound.bind(("", source))
            break
        except OSError:
            bound.close()
    return _Bound(bound, host, port)


W = TypeVar("W", bound="Workers")


class Workers:
    """Threads that send requests until the `with` statement ends."""

    def __init__(self, workers: Iterable[Callable[[], None]]):
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=worker, daemon=True) for worker in workers]

    def __enter__(self: W) -> W:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Load(Workers):
    """Short requests, large requests, keep-alive connections, and streams of given lengths in seconds."""

    def __init__(self, host: str, port: int, streams: dict[int, int]):
        streaming = [partial(self._stream, seconds) for seconds, count in streams.items() for _ in range(count)]
        super().__init__([self._short] * 4 + [self._large] * 2 + [self._kept] * 2 + streaming)
        self._host, self._port = host, port
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        self.under_way = 0

    def since(self, begun: float) -> list[Request]:
        with self._lock:
            return [request for request in self.requests if request.begun >= begun]

    def failures(self) -> list[Request]:
        with self._lock:
            return [request for request in self.requests if request.outcome != "ok"]

    def ended(self, kind: str) -> int:
        with self._lock:
            return sum(request.kind == kind for request in self.requests)

    def figures(self) -> str:
        with self._lock:
            counts = Counter(f"{request.kind} {request.outcome}" for request in self.requests)
        return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))

    def _short(self) -> None:
        while not self._stop.wait(0.05):
            self._generate("short", "tiny", 10)

    def _large(self) -> None:
        while not self._stop.wait(1):
            self._generate("large", "tiny", 10, prompt="x" * LARGE)

    def _stream(self, seconds: int) -> None:
        self._stop.wait(random.random() * min(seconds, 10))
        while not self._stop.is_set():
            self._generate(f"stream of {seconds} s", "qwen2.5-coder:7b", seconds * 10)

    def _kept(self) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=60)
        while not self._stop.wait(0.02):
            begun = time.monotonic()
            try:
                connection.request("GET", "/api/version", headers=HEADERS)
                answer = connection.getresponse()
                answer.read()
                outcome = "ok" if answer.status == 200 else "told"
                detail = str(answer.status)
                # The server announced that it closes the connection; the next request uses a new one.
                if answer.will_close:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                outcome, detail = "cut", repr(error)
                connection.close()
            self._note(Request("kept", begun, time.monotonic(), outcome, "", detail))

    def _generate(self, kind: str, model: str, tokens: int, prompt: str = "x") -> None:
        begun = time.monotonic()
        backend, detail = "", ""
        connection = unconnected(self._host, self._port)
        with self._lock:
            self.under_way += 1
        try:
            body = {"model": model, "prompt": prompt, "options": {"num_predict": tokens}}
            connection.request("POST", "/api/generate", json.dumps(body), HEADERS)
            answer = connection.getresponse()
            backend = answer.getheader("x-llamatower-backend", "")
            lines = answer.read().splitlines()
            last = json.loads(lines[-1])
            outcome = "ok" if last.get("done") else "told" if "error" in last else "lost"
            detail = "" if outcome == "ok" else f"{answer.status} {last}"
        except (OSError, http.client.HTTPException, ValueError, IndexError) as error:
            outcome, detail = "cut", repr(error)
        finally:
            connection.close()
        with self._lock:
            self.under_way -= 1
        self._note(Request(kind, begun, time.monotonic(), outcome, backend, detail))

    def _note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)


class Pressure(Workers):
    """More large bodies than half a CPU can parse. The gateway refuses each body after it was parsed."""

    def __init__(self, host: str, port: int, clients: int):
        super().__init__([self._press] * clients)
        self._address = (host, port)
        self.statuses: Counter[str] = Counter()

    def _press(self) -> None:
        # Many values, which cost more to parse than to send. A duplicate model name is refused.
        numbers = "1," * (LARGE // 2)
        body = f'{{"model": "a", "model": "b", "context": [{numbers}1]}}'
        while not self._stop.is_set():
            connection = http.client.HTTPConnection(*self._address, timeout=60)
            try:
                connection.request("POST", "/api/generate", body, HEADERS)
                self.statuses[str(connection.getresponse().status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.statuses[type(error).__name__] += 1
            finally:
                connection.close()
