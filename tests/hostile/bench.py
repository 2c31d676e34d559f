"""The gateways of this suite and the backend that must not see what they refuse."""

import hashlib
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "clients" / "python")]
from harness.gateway import Gateway  # noqa: E402
from harness.process import ask, eventually  # noqa: E402
from parts.raw_backend import RawBackend, Received  # noqa: E402
from parts.table import Table  # noqa: E402
from parts.wire import Client, NotHttp, address_of, request  # noqa: E402

KEY, OTHER_KEY, ADMIN_KEY = "key-of-ada-0123456789", "key-of-ben-0123456789", "key-of-root-0123456789"
BODY_LIMIT = 1024 * 1024
HEAD_LIMIT = 64 * 1024
BODY_READ_SECONDS = 1.0
CHAT = b'{"model":"tiny","stream":false,"messages":[{"role":"user","content":"hello"}]}'
SMUGGLED = b'{"model":"smuggled","stream":false,"messages":[]}'
NEXT = request("POST", "/api/chat", SMUGGLED)
"""A second request in the same bytes: it must not run if there is a doubt where the first one ends."""


@dataclass(frozen=True)
class Case:
    """Bytes, and what must come of them."""

    name: str
    data: bytes
    statuses: tuple[int, ...]
    reaches: int = 0
    """How many requests must reach the backend."""
    closes: bool | None = None
    method: str = "POST"
    text: str = ""
    """A part of the answer's text."""


class Bench:
    def __init__(self, chance: random.Random, table: Table, folder: Path):
        self.chance, self.table = chance, table
        self.backend = RawBackend(models=("tiny", "gpt-oss", "aaa/llava"))
        common = {
            "LLAMATOWER_BODY_LIMIT": str(BODY_LIMIT),
            "LLAMATOWER_BODY_MEMORY": str(8 * BODY_LIMIT),
            "LLAMATOWER_MAX_HEAD_BYTES": str(HEAD_LIMIT),
            "LLAMATOWER_BODY_READ_TIMEOUT": f"{BODY_READ_SECONDS}s",
            "LLAMATOWER_LOG": "info",
        }
        self.open = Gateway("open", [self.backend.url], common, folder)
        keys = {"LLAMATOWER_API_KEYS": f"{KEY},{OTHER_KEY}", "LLAMATOWER_ADMIN_KEYS": ADMIN_KEY}
        self.keyed = Gateway("keyed", [self.backend.url], common | keys, folder)
        self.folder = folder
        for gateway in (self.open, self.keyed):
            eventually(lambda at=gateway: is_up(at), "the backend is up", 20)

    def stop(self) -> None:
        for gateway in (self.open, self.keyed):
            gateway.stop()
        self.backend.stop()

    def arrived(self, count: int, since: int) -> list[Received]:
        """What the backend got since then: waits for `count`, and a little for more."""
        until = time.monotonic() + 5
        while len(self.backend.received) < since + count and time.monotonic() < until:
            time.sleep(0.002)
        return self.backend.received[since:]

    def run(self, section: str, case: Case, keyed: bool = False) -> None:
        """One row."""
        codes = "/".join(map(str, case.statuses))
        asked = f"{codes}, {case.reaches or 'nothing'} at the backend" + (", closed" if case.closes else "")
        gateway = self.keyed if keyed else self.open
        self.table.run(f"{section}: {case.name}", asked, lambda: self.check(case, gateway))

    def check(self, case: Case, gateway: Gateway) -> str:
        since = len(self.backend.received)
        with Client(address_of(gateway.origin)) as client:
            pieces = self.chance.choice([1, 1, 2, 5])
            client.send_in_pieces(case.data, self.chance, pieces)
            try:
                answers = [client.answer(case.method)]
            except NotHttp as error:
                raise AssertionError(f"an invalid answer: {error}") from None
            assert answers[0] is not None, "the connection ended without an answer"
            is_closed = case.closes and client.is_closed(4)
        status, text = answers[0].status, answers[0].body.decode(errors="replace")
        seen = f"{status} {text[:100].strip()!r}"
        arrived = self.arrived(case.reaches, since)
        assert status in case.statuses, seen
        assert case.text in text, seen
        assert len(arrived) == case.reaches, f"{len(arrived)} at the backend: {arrived}; {seen}"
        assert not [one for one in arrived if b"smuggled" in one.body], f"a smuggled request ran; {seen}"
        assert not self.backend.doubts, f"the backend was sent {self.backend.doubts}"
        assert not case.closes or is_closed, f"the connection stays open; {seen}"
        return f"{status}" + (", closed" if case.closes else "")


def is_up(gateway: Gateway) -> bool:
    status, text = ask(f"{gateway.admin}/status")
    return status == 200 and b'"is_up":true' in text


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
