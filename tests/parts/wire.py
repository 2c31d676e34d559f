"""A client that sends any bytes and reads answers strictly."""

import contextlib
import random
import re
import socket
import time
from dataclasses import dataclass, field

LIMIT = 10.0
"""Seconds that a client waits for bytes."""


class NotHttp(Exception):
    """An answer that a strict parser refuses."""


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    is_whole: bool = True
    """Whether the end of the body is marked by its framing and has arrived."""

    def header(self, name: str) -> str | None:
        found = [value for given, value in self.headers if given == name]
        return found[0] if found else None


def split(data: bytes, chance: random.Random, pieces: int) -> list[bytes]:
    """The bytes in at most this many pieces."""
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(pieces - 1)) if data else []
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


class Client:
    def __init__(self, address: tuple[str, int], limit: float = LIMIT, receive_buffer: int | None = None):
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(limit)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seen = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether the peer still took them."""
        try:
            self.socket.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def send_in_pieces(self, data: bytes, chance: random.Random, pieces: int) -> None:
        for piece in split(data, chance, pieces):
            if not self.send(piece):
                return
            time.sleep(chance.random() * 0.002)

    def more(self) -> bool:
        """Reads more bytes; false at the end. A time-out is an exception."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self.seen += data
        return data != b""

    def line(self) -> bytes | None:
        """The next line without its end; None at the end of the connection."""
        while b"\r\n" not in self.seen:
            if not self.more():
                return None
        line, self.seen = self.seen.split(b"\r\n", 1)
        return line

    def take(self, count: int) -> bytes:
        """This many bytes, or fewer at the end of the connection."""
        while len(self.seen) < count and self.more():
            pass
        data, self.seen = self.seen[:count], self.seen[count:]
        return data

    def answer(self, method: str = "POST") -> Answer | None:
        """The next final answer; None if the connection ended before its first byte."""
        while (answer := self._head()) is not None:
            if answer.status >= 200:
                self._body(answer, method)
                return answer
        return None

    def head(self) -> Answer | None:
        """The head of the next answer alone; `chunk` reads on."""
        return self._head()

    def _head(self) -> Answer | None:
        line = self.line()
        if line is None:
            if self.seen:
                raise NotHttp(f"half a head: {self.seen[:200]!r}")
            return None
        if not (found := re.fullmatch(rb"HTTP/1\.[01] (\d{3}) [^\r\n]*", line)):
            raise NotHttp(f"no status line: {line[:200]!r}")
        answer = Answer(int(found[1]))
        while line := self.line():
            if not (found := re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*", line)):
                raise NotHttp(f"no field: {line[:200]!r}")
            answer.headers.append((found[1].decode().lower(), found[2].decode("latin-1")))
        if line is None:
            raise NotHttp("the connection ended inside of a head")
        return answer

    def _body(self, answer: Answer, method: str) -> None:
        lengths = [value for name, value in answer.headers if name == "content-length"]
        codings = [value for name, value in answer.headers if name == "transfer-encoding"]
        if len(lengths) + len(codings) > 1:
            raise NotHttp(f"ambiguous framing: {answer.headers}")
        if method == "HEAD" or answer.status in (204, 304):
            return
        if lengths:
            if not re.fullmatch(r"\d+", lengths[0]):
                raise NotHttp(f"Content-Length: {lengths[0]}")
            answer.body = self.take(int(lengths[0]))
            answer.is_whole = len(answer.body) == int(lengths[0])
        elif codings:
            if codings != ["chunked"]:
                raise NotHttp(f"Transfer-Encoding: {codings}")
            pieces = []
            while chunk := self.chunk():
                pieces.append(chunk)
            answer.body, answer.is_whole = b"".join(pieces), chunk is not None
        else:
            while self.more():
                pass
            answer.body, self.seen, answer.is_whole = self.seen, b"", False

    def chunk(self) -> bytes | None:
        """The next chunk; empty at the clean end, None at an end that is not clean."""
        if (line := self.line()) is None:
            return None
        if not re.fullmatch(rb"[0-9a-fA-F]+", line):
            raise NotHttp(f"no chunk: {line[:200]!r}")
        data = self.take(int(line, 16) + 2)
        if len(data) < int(line, 16) + 2:
            return None
        if data[-2:] != b"\r\n":
            raise NotHttp(f"a chunk without its end: {data[-20:]!r}")
        return data[:-2]

    def is_closed(self, limit: float) -> bool:
        """Whether the peer closes in time, without further bytes."""
        self.socket.settimeout(limit)
        try:
            return not self.seen and not self.more()
        except TimeoutError:
            return False

    def reset(self) -> None:
        """Closes with RST."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


def address_of(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


def request(method: str, target: str, body: bytes = b"", headers: tuple[str, ...] = (), host: str = "localhost") -> bytes:
    """A well-formed request with Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if body or method in ("POST", "PUT", "DELETE"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
