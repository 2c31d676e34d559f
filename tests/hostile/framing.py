"""Requests whose end is in doubt."""

from .bench import CHAT, HEAD_LIMIT, KEY, NEXT, Case, Bench
from parts.wire import Client, address_of, request

LENGTH = len(CHAT)


def post(*fields: str, body: bytes = CHAT, version: str = "1.1", line: str = "POST /api/chat") -> bytes:
    head = "\r\n".join([f"{line} HTTP/{version}", "Host: localhost", *fields])
    return head.encode("latin-1") + b"\r\n\r\n" + body


def chunked(body: bytes = CHAT, size: str | None = None, extension: str = "", last: bytes = b"0\r\n\r\n") -> bytes:
    size = f"{len(body):x}" if size is None else size
    return post("Transfer-Encoding: chunked", body=f"{size}{extension}\r\n".encode("latin-1") + body + b"\r\n" + last)


def refused(name: str, data: bytes, *statuses: int) -> Case:
    """A request that must end its connection, with another one behind it."""
    return Case(name, data + NEXT, statuses or (400,), closes=True)


def by_chunks(name: str, data: bytes) -> Case:
    return Case(f"{name}, with a request behind it", data + NEXT, (200,), reaches=1, closes=True)


def cases() -> list[Case]:
    one_chunk = f"{LENGTH:x}\r\n".encode() + CHAT + b"\r\n0\r\n\r\n"
    length = f"Content-Length: {LENGTH}"
    return [
        # RFC 9112 6.3: the body is read by Transfer-Encoding alone, and the connection closes.
        by_chunks("TE and CL", post("Transfer-Encoding: chunked", "Content-Length: 3", body=one_chunk)),
        by_chunks("CL and TE", post("Content-Length: 3", "Transfer-Encoding: chunked", body=one_chunk)),
        by_chunks("CL, TE and CL", post(length, "Transfer-Encoding: chunked", "Content-Length: 3", body=one_chunk)),
        refused("differing CLs", post("Content-Length: 3", length)),
        refused("CL: n, n", post(f"Content-Length: {LENGTH}, {LENGTH}")),
        refused("signed CL", post(f"Content-Length: +{LENGTH}")),
        refused("negative CL", post("Content-Length: -1")),
        refused("hexadecimal CL", post(f"Content-Length: 0x{LENGTH:x}")),
        refused("empty CL", post("Content-Length: ")),
        refused("CL with a space inside", post("Content-Length: 1 0")),
        refused("CL above 64 bits", post("Content-Length: 18446744073709551617"), 400, 413),
        refused("TE: gzip, chunked", post("Transfer-Encoding: gzip, chunked", body=one_chunk), 501),
        refused("TE: chunked, chunked", post("Transfer-Encoding: chunked, chunked", body=one_chunk), 400, 501),
        refused("TE: identity", post("Transfer-Encoding: identity", length), 400, 501),
        refused("TE: xchunked", post("Transfer-Encoding: xchunked", body=one_chunk), 400, 501),
        refused("TE: chunked with a vertical tab", post("Transfer-Encoding: \x0bchunked", body=one_chunk), 400, 501),
        refused("two TE fields", post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=one_chunk)),
        refused("HTTP/1.0 and TE", post("Transfer-Encoding: chunked", body=one_chunk, version="1.0")),
        refused("chunk size without digits", chunked(size="")),
        refused("chunk size with a sign", chunked(size=f"+{LENGTH:x}")),
        refused("chunk size 0x..", chunked(size=f"0x{LENGTH:x}")),
        refused("chunk size above 64 bits", chunked(size="fffffffffffffffff")),
        refused("chunk size of 20 digits", chunked(size="1" * 20)),
        refused("chunk longer than its size", chunked(size=f"{LENGTH - 1:x}")),
        refused("chunk size ended by a bare LF", post("Transfer-Encoding: chunked", body=f"{LENGTH:x}\n".encode() + CHAT + b"\r\n0\r\n\r\n")),
        refused("chunk size ended by a bare CR", post("Transfer-Encoding: chunked", body=f"{LENGTH:x}\r".encode() + CHAT + b"\r\n0\r\n\r\n")),
        refused("chunk ended by a bare LF", post("Transfer-Encoding: chunked", body=f"{LENGTH:x}\r\n".encode() + CHAT + b"\n0\r\n\r\n")),
        refused("LF in a chunk extension", chunked(extension=";a=\nb")),
        refused("chunk extension of 32 KiB", chunked(extension=";" + "x" * 32 * 1024)),
        refused("chunk extensions of 32 KiB in total", post("Transfer-Encoding: chunked", body=b"".join(
            b"1;" + b"x" * 1024 + b"\r\n" + bytes([byte]) + b"\r\n" for byte in CHAT[:40]) + b"0\r\n\r\n")),
        refused("trailers of twice the limit of a head", chunked(last=b"0\r\nx: " + b"y" * 2 * HEAD_LIMIT + b"\r\n\r\n")),
        refused("an invalid trailer", chunked(last=b"0\r\nno colon\r\n\r\n")),
        # A body that has not ended after the limit for a pause: the bytes behind it belong to it.
        Case("missing last chunk", chunked(last=b""), (408,), closes=True),
        refused("missing last chunk, then a request", chunked(last=b"")),
        Case("CL longer than the body", post(f"Content-Length: {LENGTH + 9}"), (408,), closes=True),
        refused("obs-fold", post("X-A: b", " c", length)),
        refused("obs-fold of Content-Length", post("Content-Length:", f" {LENGTH}")),
        refused("field that begins with a space", post(" X-A: b", length)),
        refused("space before the colon", post(f"Content-Length : {LENGTH}")),
        refused("space before the colon of TE", post("Transfer-Encoding : chunked", length, body=one_chunk)),
        refused("NUL in a value", post("X-A: b\0c", length)),
        refused("CR in a value", post("X-A: b\rc", length)),
        refused("a field without a colon", post("X-A", length)),
        refused("a field without a name", post(": b", length)),
        refused("a name that is no token", post("X(A): b", length)),
        refused("two spaces in the request line", post(length, line="POST  /api/chat")),
        refused("tab in the request line", post(length, line="POST\t/api/chat")),
        refused("HTTP/2.0 in the request line", post(length, version="2.0")),
        refused("HTTP/1.10", post(length, version="1.10")),
        refused("HTTP/0.9", b"GET /api/tags\r\n"),
        refused("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"),
        refused("TLS on the plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n"),
        refused("head with a field of twice the limit", post("X-A: " + "a" * 2 * HEAD_LIMIT, length), 431),
        refused("101 fields", post(*[f"X-{number}: a" for number in range(99)], length), 431),
        Case("bare LF in a head is normalised", post(length).replace(b"\r\n", b"\n"), (200,), reaches=1),
        Case("chunk extensions within limits", chunked(extension=";a=b"), (200,), reaches=1),
        Case("the same CL twice", post(length, length), (200,), reaches=1),
        Case("chunk size with leading zeros", chunked(size="0" * 19 + f"{LENGTH:x}"), (200,), reaches=1),
        Case("CL with leading zeros", post(f"Content-Length: 000{LENGTH}"), (200,), reaches=1),
    ]


def run(bench: Bench) -> None:
    rows = cases()
    bench.chance.shuffle(rows)
    for case in rows:
        bench.run("framing", case)
    bench.table.run(
        "framing: pipelined second request authenticated on its own",
        "200 then 401, 1 at the backend",
        lambda: pipelined(bench),
    )


def pipelined(bench: Bench) -> str:
    since = len(bench.backend.received)
    with Client(address_of(bench.keyed.origin)) as client:
        first = request("POST", "/api/chat", CHAT, (f"Authorization: Bearer {KEY}",))
        client.send(first + request("POST", "/api/chat", CHAT))
        statuses = [answer.status for answer in (client.answer(), client.answer()) if answer]
    arrived = len(bench.arrived(1, since))
    seen = f"{statuses}, {arrived} at the backend"
    assert statuses == [200, 401] and arrived == 1, seen
    return seen

