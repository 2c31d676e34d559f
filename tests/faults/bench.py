"""The parts that the rows of faults are made of: gateways, simulated servers, clients that see each byte."""

import contextlib
import json
import os
import random
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "clients" / "python")]
from harness.backends import Sim, built  # noqa: E402
from harness.gateway import Gateway  # noqa: E402
from harness.process import Process, ask, eventually, free_port  # noqa: E402
from parts.table import NotHere, Table  # noqa: E402
from parts.wire import Client, NotHttp, address_of, request  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Bench:
    chance: random.Random
    table: Table
    folder: Path
    is_short: bool
    started: int = 0

    @contextlib.contextmanager
    def gateway(self, backends: list[str], **settings: str) -> Iterator[Gateway]:
        """A gateway that has seen all of its backends, with memory of its own."""
        self.started += 1
        started = Gateway(f"gateway-{self.started}", backends, settings, self.folder)
        try:
            try:
                eventually(lambda: ups(started) == len(backends), "all backends are up", 20)
            except AssertionError as error:
                raise AssertionError(f"{error}: {started.process.log()[-2000:]}") from None
            yield started
        finally:
            started.process.kill()

    @contextlib.contextmanager
    def sims(self, count: int, *models: str) -> Iterator[list[Sim]]:
        names = [f"sim-{self.started}-{number}" for number in range(count)]
        self.started += 1
        sims: list[Sim] = []
        try:
            for name in names:
                sims.append(Sim(name, list(models), self.folder))
            yield sims
        finally:
            for sim in sims:
                sim.process.kill()


def warm(urls: list[str], model: str = "tiny") -> None:
    """Loads the model on each server, so that the choice between them depends on their load alone."""
    for url in urls:
        code, text = ask(f"{url}/api/generate", {"model": model, "stream": False, "options": {"num_predict": 1}, "prompt": "x"})
        assert code == 200, text


def ups(gateway: Gateway) -> int:
    return sum(row["is_up"] for row in status(gateway)["backends"])


def status(gateway: Gateway) -> dict:
    code, text = ask(f"{gateway.admin}/status")
    assert code == 200, text
    return json.loads(text)


def metric(gateway: Gateway, name: str, labels: str = "") -> float:
    """The sum of the series of a metric whose labels contain this text."""
    text = ask(f"{gateway.admin}/metrics")[1].decode()
    rows = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for given, value in rows if labels in given)


def waiting(gateway: Gateway) -> int:
    return sum(row["waiting"] for row in status(gateway)["queue"])


def nothing_under_way(gateway: Gateway) -> bool:
    return not (
        metric(gateway, "llamatower_backend_in_flight")
        or metric(gateway, "http_server_active_requests")
        or waiting(gateway)
    )


def pid(gateway: Gateway) -> int:
    child = gateway.process._child
    assert child
    return child.pid


def resident(process: int) -> int:
    """The memory of a process in bytes."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


# === Requests ===

DIALECTS = {
    "native": "/api/chat",
    "generate": "/api/generate",
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "responses": "/v1/responses",
}


def body(dialect: str, prompt: str, stream: bool, model: str = "tiny", tokens: int | None = None) -> bytes:
    value: dict = {"model": model, "stream": stream}
    if dialect == "generate":
        value["prompt"] = prompt
    elif dialect == "responses":
        value["input"] = prompt
    else:
        value["messages"] = [{"role": "user", "content": prompt}]
    if dialect == "anthropic":
        value["max_tokens"] = tokens or 1024
    elif tokens is not None and dialect == "openai":
        value["max_tokens"] = tokens
    elif tokens is not None and dialect == "responses":
        value["max_output_tokens"] = tokens
    elif tokens is not None:
        value["options"] = {"num_predict": tokens}
    return json.dumps(value).encode()


LAST = {
    "native": rb'"done":true',
    "generate": rb'"done":true',
    "openai": rb"data: \[DONE\]",
    "anthropic": rb"event: message_stop",
    "responses": rb"event: response\.completed",
}


@dataclass
class Asked:
    """A request on a connection of its own, read by a thread."""

    gateway: Gateway
    dialect: str = "native"
    prompt: str = "x"
    stream: bool = True
    tokens: int | None = None
    model: str = "tiny"
    limit: float = 60.0
    fields: tuple[str, ...] = ()
    # What came of it.
    status: int | None = None
    backend: str | None = None
    text: bytes = b""
    chunks: int = 0
    is_clean: bool = False
    """Whether the framing of the answer says that it is complete."""
    began: float = 0.0
    first: float | None = None
    ended: float | None = None
    error: str | None = None
    thread: threading.Thread = field(default_factory=threading.Thread)
    client: Client | None = None

    @property
    def payload(self) -> bytes:
        return body(self.dialect, self.prompt, self.stream, self.model, self.tokens)

    def start(self) -> "Asked":
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def join(self) -> "Asked":
        self.thread.join(self.limit)
        assert not self.thread.is_alive(), "a request does not end"
        return self

    def run(self) -> "Asked":
        self._run()
        return self

    def _run(self) -> None:
        self.began = time.monotonic()
        try:
            with Client(address_of(self.gateway.origin), self.limit) as client:
                self.client = client
                client.send(request("POST", DIALECTS[self.dialect], self.payload, self.fields))
                self._read(client)
        except (OSError, NotHttp) as error:
            self.error = repr(error)
        self.ended = time.monotonic()

    def _read(self, client: Client) -> None:
        head = client.head()
        if head is None:
            return
        self.status, self.backend = head.status, head.header("x-llamatower-backend")
        if length := head.header("content-length"):
            self.text = client.take(int(length))
            self.first = time.monotonic()
            self.is_clean = len(self.text) == int(length)
            return
        while chunk := client.chunk():
            self.first = self.first or time.monotonic()
            self.text += chunk
            self.chunks += 1
        self.is_clean = chunk == b""

    @property
    def is_whole(self) -> bool:
        """An answer that says so, by its framing and by its last line."""
        last = LAST[self.dialect] if self.stream else rb'"(done|usage)"'
        return self.status == 200 and self.is_clean and re.search(last, self.text) is not None

    @property
    def has_error(self) -> bool:
        """Whether it tells of an error in its dialect."""
        return re.search(rb'"error"|event: error|response\.failed', self.text) is not None

    @property
    def is_visibly_incomplete(self) -> bool:
        """A client cannot take it for a complete answer."""
        if self.status is None or self.status >= 400:
            return True
        has_last = self.stream and re.search(LAST[self.dialect], self.text) is not None
        return not has_last and (self.has_error or not self.is_clean)

    def __str__(self) -> str:
        end = "clean" if self.is_clean else "unclean"
        return f"{self.dialect} {self.status} {end} {self.error or ''} ..{self.text[-160:]!r}"


def all_of(requests: list[Asked]) -> list[Asked]:
    for one in requests:
        one.start()
    return [one.join() for one in requests]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


__all__ = [
    "Asked", "Bench", "Callable", "Client", "Gateway", "NotHere", "Process", "Sim", "all_of", "built", "cpu_seconds",
    "eventually", "free_port", "metric", "ms", "nothing_under_way", "percentile", "pid", "resident", "resource",
    "status", "subprocess", "ups", "waiting", "warm",
]  # fmt: skip
