"""The defaults that the gateway ships with, as far as they are seen from outside."""

import contextlib
import json
import socket
import threading

from collections.abc import Iterator

from .bench import ADMIN_KEY, BODY_LIMIT, CHAT, KEY, OTHER_KEY, Bench, Case, is_up
from harness.gateway import Gateway
from harness.process import ask, eventually
from parts.raw_backend import RawBackend, Received, answer, whole
from parts.wire import Answer, Client, address_of, request

SHA = "sha256:" + "0" * 64
MANAGEMENT = [
    ("POST", "/api/pull"), ("POST", "/api/push"), ("POST", "/api/create"), ("POST", "/api/copy"),
    ("DELETE", "/api/delete"), ("POST", f"/api/blobs/{SHA}"), ("HEAD", f"/api/blobs/{SHA}"), ("POST", "/api/signout"),
]  # fmt: skip
HOP_BY_HOP = ("keep-alive", "proxy-connection", "te", "upgrade", "x-named", "http2-settings", "trailer", "proxy-authenticate")
PRIVATE = (
    "authorization", "x-api-key", "cookie", "origin", "referer", "forwarded", "x-forwarded-for", "x-forwarded-host",
    "x-forwarded-proto", "x-real-ip", "proxy-authorization",
)  # fmt: skip


def run(bench: Bench) -> None:
    for method, path in MANAGEMENT:
        text = "" if method == "HEAD" else "LLAMATOWER_ADMIN_KEYS"
        body = b"" if method == "HEAD" else b'{"model":"new"}'
        case = Case(f"{method} {path[:20]} without admin keys", request(method, path, body), (403,), method=method, text=text)
        bench.run("defaults: management", case)
        with_key = request(method, path, body, (f"Authorization: Bearer {KEY}",))
        bench.run("defaults: management", Case(f"{method} {path[:20]} with a usual key", with_key, (403,), method=method), keyed=True)
    for path in ("/metrics", "/status", "/status/usage", "/status/decisions", "/keys", "/backends/x/cordon", "/"):
        # `/` is Ollama's own text for clients that look whether it is alive.
        statuses, text = ((200,), "Ollama is running") if path == "/" else ((404,), "")
        bench.run(
            "defaults: admin plane",
            Case(f"{path} on the public listener", request("GET", path), statuses, method="GET", text=text),
        )
    rows = [
        ("headers of hop and client do not reach the backend", "none of them, own framing", lambda: hygiene(bench)),
        ("headers that Connection names", "stripped", lambda: named_by_connection(bench)),
        ("redirects of a backend are not followed", "passed on or 502, nothing at the other server", redirect_is(bench)),
        ("a registry host in a model's name", "404, no pull", lambda: registry_host(bench)),
        ("the body limit, the queue, a client's share", "413, 503, 503/429", lambda: consumption(bench)),
        ("requests per minute", "429 with Retry-After for this client alone", lambda: requests_per_minute(bench)),
        ("a stream without counts uses tokens", "429 after it", lambda: tokens_without_counts(bench)),
        ("a request that fails before its first byte uses none", "no 429 after it", lambda: tokens_given_back(bench)),
        ("keep_alive with keys on", "0 is 403, -1 becomes 30 min, 1m becomes 5 min", lambda: keep_alive(bench)),
        ("unload by anyone with keys on", "403, or 400 if it is not readable; nothing at the backend", lambda: unload(bench)),
        ("keys in logs, metrics, status and errors", "in none", lambda: keys_are_nowhere(bench)),
        ("control characters in logs", "escaped", lambda: log_is_clean(bench)),
        ("Origin and Host on the admin listener", "403", lambda: admin_rules(bench)),
        ("the status page", "a strict CSP", lambda: content_security_policy(bench)),
        ("X-Forwarded-For of a client that is no trusted proxy", "ignored", lambda: forwarded(bench)),
    ]  # fmt: skip
    bench.chance.shuffle(rows)
    for name, asked, check in rows:
        bench.table.run(f"defaults: {name}", asked, check)


def send(gateway: Gateway, body: bytes = CHAT, *fields: str, path: str = "/api/chat", method: str = "POST", source: str | None = None) -> Answer:
    """One request on a connection of its own, from another address of loopback if `source` is set."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client.__new__(Client))
        client.socket, client.seen = socket.socket(), b""
        client.socket.settimeout(10)
        if source:
            client.socket.bind((source, 0))
        client.socket.connect(address_of(gateway.origin))
        client.send(request(method, path, body, fields))
        answered = client.answer(method)
        assert answered is not None, "no answer"
        return answered


@contextlib.contextmanager
def gateway(bench: Bench, name: str, backend: RawBackend, **settings: str) -> Iterator[Gateway]:
    started = Gateway(name, [backend.url], settings, bench.folder)
    try:
        eventually(lambda: is_up(started), "the backend is up", 20)
        yield started
    finally:
        started.stop()
        backend.stop()


def hygiene(bench: Bench) -> str:
    since = len(bench.backend.received)
    fields = [f"{name}: secret" for name in (*HOP_BY_HOP, *PRIVATE) if name not in ("te", "origin")]
    fields += ["Connection: x-named, keep-alive", "TE: trailers", "X-Kept: yes"]
    one_chunk = f"{len(CHAT):x}\r\n".encode() + CHAT + b"\r\n0\r\n\r\n"
    head = "\r\n".join(["POST /api/chat?secret=1 HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", *fields])
    with Client(address_of(bench.open.origin)) as client:
        client.send(head.encode() + b"\r\n\r\n" + one_chunk)
        answered = client.answer()
    assert answered and answered.status == 200, answered
    (received,) = bench.arrived(1, since)
    leaked = [field for field in received.headers if field[0] in (*HOP_BY_HOP, *PRIVATE) or "secret" in field[1]]
    assert not leaked, f"{leaked} reached the backend"
    assert received.target == "/api/chat" and received.body == CHAT, received
    assert received.all("x-kept") == ["yes"], "a harmless header is missing"
    framing = [field for field in received.headers if field[0] in ("content-length", "transfer-encoding")]
    assert framing == [("content-length", str(len(CHAT)))], framing
    return f"none of {len(fields)}; framing {framing[0][0]}"


def named_by_connection(bench: Bench) -> str:
    since = len(bench.backend.received)
    fields = ("Connection: close, X-One,X-Two , content-type, content-length, host", "X-One: a", "X-Two: b", "Content-Type: application/json")
    assert send(bench.open, CHAT, *fields).status == 200
    (received,) = bench.arrived(1, since)
    left = [name for name, _ in received.headers if name in ("x-one", "x-two", "close")]
    assert not left, left
    assert len(received.all("host")) == 1 and received.body == CHAT, received
    return "stripped; Host and framing are the gateway's own"


def redirect_is(bench: Bench):
    def check() -> str:
        other = RawBackend()

        def redirect(received: Received, sock: socket.socket) -> None:
            sock.sendall(f"HTTP/1.1 302 Found\r\nLocation: {other.url}/api/chat\r\nContent-Length: 0\r\n\r\n".encode())

        with gateway(bench, "redirected", RawBackend(redirect)) as served:
            status = send(served).status
        other.stop()
        seen = f"{status}, {len(other.received)} at the other server"
        assert status in (302, 502) and not other.received, seen
        return seen

    return check


def registry_host(bench: Bench) -> str:
    def not_found(received: Received, sock: socket.socket) -> None:
        answer(sock, {"error": "model not found"}, "404 Not Found")

    with gateway(bench, "registry", RawBackend(not_found)) as served:
        body = CHAT.replace(b"tiny", b"evil.example/a/b")
        status = send(served, body).status
        pull = send(served, b'{"model":"evil.example/a/b"}', path="/api/pull").status
    assert (status, pull) == (404, 403), (status, pull)
    return f"{status}; pull {pull}"


def consumption(bench: Bench) -> str:
    release = threading.Event()

    def wait(received: Received, sock: socket.socket) -> None:
        release.wait(20)
        whole(received, sock)

    settings = {
        "LLAMATOWER_SLOTS": "1",
        "LLAMATOWER_QUEUE_MAX_WAITING": "2",
        "LLAMATOWER_QUEUE_MAX_WAITING_PER_KEY": "1",
        "LLAMATOWER_BODY_LIMIT": str(BODY_LIMIT),
    }
    backend = RawBackend(wait)
    with gateway(bench, "bounded", backend, **settings) as served:
        large = send(served, CHAT + b" " * BODY_LIMIT).status
        answers: list[int] = []
        threads = []
        sources = ["127.0.0.2", "127.0.0.2", "127.0.0.3"]
        for number, source in enumerate(sources):
            threads.append(threading.Thread(target=lambda at=source: answers.append(send(served, source=at).status)))
            threads[-1].start()
            if number == 0:
                eventually(lambda: backend.received, "the first request has the slot")
            else:
                eventually(lambda n=number: waiting(served) == n, "it waits")
        own_share = send(served, source="127.0.0.2").status
        full = send(served, source="127.0.0.4").status
        release.set()
        for thread in threads:
            thread.join()
    seen = f"{large}, queue full {full}, own share {own_share}, the others {answers}"
    assert (large, full, own_share) == (413, 503, 503) and answers == [200] * 3, seen
    return seen


def waiting(served: Gateway) -> int:
    status, text = ask(f"{served.admin}/status")
    assert status == 200
    return sum(queue.get("waiting", 0) for queue in json.loads(text)["queue"])


def requests_per_minute(bench: Bench) -> str:
    with gateway(bench, "rated", RawBackend(), LLAMATOWER_KEY_RATE_LIMIT="2/m") as served:
        answers = [send(served, source="127.0.0.2") for _ in range(3)]
        other = send(served, source="127.0.0.3").status
    statuses = [one.status for one in answers]
    seen = f"{statuses}, Retry-After {answers[-1].header('retry-after')}; another client {other}"
    assert statuses == [200, 200, 429] and answers[-1].header("retry-after") and other == 200, seen
    return seen


def streams_without_counts(received: Received, sock: socket.socket) -> None:
    """Forty lines, and the end of the connection."""
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
    line = b'{"model":"tiny","created_at":"2025-01-01T00:00:00Z","message":{"role":"assistant","content":"x"},"done":false}\n'
    for _ in range(40):
        sock.sendall(f"{len(line):x}\r\n".encode() + line + b"\r\n")
    sock.close()


def tokens_without_counts(bench: Bench) -> str:
    body = CHAT.replace(b'"stream":false', b'"stream":true')
    with gateway(bench, "tokens", RawBackend(streams_without_counts), LLAMATOWER_KEY_TOKEN_LIMIT="30/minute") as served:
        first, second = send(served, body), send(served, body)
    seen = f"{first.status} with {first.body.count(b'content')} lines, then {second.status}"
    assert first.status == 200 and second.status == 429, seen
    assert b'"error"' in first.body and not first.is_whole, "the broken stream has no error"
    return seen


def tokens_given_back(bench: Bench) -> str:
    statuses = []

    def fails(received: Received, sock: socket.socket) -> None:
        answer(sock, {"error": "invalid"}, "400 Bad Request")

    with gateway(bench, "refunded", RawBackend(fails), LLAMATOWER_KEY_TOKEN_LIMIT="400/minute") as served:
        statuses = [send(served).status for _ in range(20)]
    assert statuses == [400] * 20, statuses
    return f"{len(statuses)} requests, all {statuses[0]}"


def keep_alive(bench: Bench) -> str:
    seen = []
    for value in (b"0", b"-1", b'"1m"'):
        since = len(bench.backend.received)
        body = CHAT[:-1] + b',"keep_alive":' + value + b"}"
        status = send(bench.keyed, body, f"Authorization: Bearer {KEY}").status
        arrived = bench.arrived(int(status == 200), since)
        seen.append((value.decode(), status, [json.loads(one.body)["keep_alive"] for one in arrived]))
    zero, forever, short = seen
    assert zero[1:] == (403, []), seen
    assert forever[1] == short[1] == 200, seen
    assert forever[2][0] in ("30m", "30m0s", 1800, "1800s") and short[2][0] in ("5m", "5m0s", 300, "300s"), seen
    return "; ".join(f"{value}: {status} {sent}" for value, status, sent in seen)


def unload(bench: Bench) -> str:
    since = len(bench.backend.received)
    answers = [
        send(bench.keyed, b'{"model":"tiny","keep_alive":0}', f"Authorization: Bearer {KEY}", path="/api/generate").status,
        send(bench.keyed, b'{"model":"tiny","keep_alive":"0s"}', f"Authorization: Bearer {KEY}", path="/api/generate").status,
        send(bench.keyed, b'{"model":"tiny","keep_alive":"1ns"}', f"Authorization: Bearer {KEY}", path="/api/generate").status,
        send(bench.keyed, b'{"model":"tiny","keep_alive":"x"}', f"Authorization: Bearer {KEY}", path="/api/generate").status,
    ]
    assert answers == [403, 403, 403, 400] and not bench.arrived(0, since), answers
    return str(answers)


def keys_are_nowhere(bench: Bench) -> str:
    """Keys in every place of a request, then the text of everything that the gateway writes."""
    secrets = (KEY, OTHER_KEY, ADMIN_KEY, "key-that-nobody-has")
    texts = []
    for key in secrets:
        for fields in ((f"Authorization: Bearer {key}",), (f"X-Api-Key: {key}",), (f"Authorization: {key}",), (f"Cookie: k={key}",)):
            texts.append(send(bench.keyed, CHAT, *fields).body.decode())
        texts.append(send(bench.keyed, CHAT, path=f"/api/chat?key={key}").body.decode())
        texts.append(send(bench.keyed, CHAT, path=f"/nope/{key[:3]}?key={key}").body.decode())
    places = {"errors": "".join(texts), "the log": bench.keyed.process.log()}
    for path in ("/metrics", "/status", "/status/overview", "/status/usage"):
        places[path] = ask(f"{bench.keyed.admin}{path}")[1].decode()
    found = [(place, key) for place, text in places.items() for key in secrets if key in text]
    assert not found, found
    assert "tester-1" in places["/metrics"] or "tester-1" in places["the log"], "the keys were not used"
    return f"in none of {', '.join(places)}"


def log_is_clean(bench: Bench) -> str:
    logs = {}
    for format in ("json", "human"):
        with gateway(bench, format, RawBackend(), LLAMATOWER_LOG_FORMAT=format, LLAMATOWER_LOG="debug") as served:
            logs[format] = dirty_log(served)
    # A reader of JSON escapes what it shows; a terminal shows the other format as it is.
    control = {name: sorted({hex(ord(char)) for char in log if is_control(char)}) for name, log in logs.items()}
    assert not any(control.values()), control
    assert "\u202e" not in logs["human"], "a raw U+202E, which reverses a line"
    for log in logs.values():
        assert not [line for line in log.splitlines() if line.startswith("forged")], "a forged line"
    return f"no raw control character in {sum(map(len, logs.values())) // 1024} KiB"


def is_control(char: str) -> bool:
    return (ord(char) < 32 and char != "\n") or 0x7F <= ord(char) < 0xA0


def dirty_log(served: Gateway) -> str:
    for text in ("\\u001b[31mred", "a\\nforged line", "a\\u009b31m", "a\\u202eb"):
        send(served, CHAT.replace(b"tiny", text.encode()))
        send(served, b'{"model":"tiny","x":"' + text.encode() + b'"', path="/v1/chat/completions")
    send(served, CHAT, "X-Request-Id: \u009b31m")
    send(served, CHAT, "User-Agent: \u009b31m", path="/x%1b[31m")
    return served.process.log()


def admin_rules(bench: Bench) -> str:
    address = address_of(bench.open.admin)
    seen = {}
    for name, fields, host in (
        ("a foreign Host", (), "evil.example"),
        ("a foreign Origin", ("Origin: https://evil.example",), "localhost"),
        ("none", (), "localhost"),
    ):
        with Client(address) as client:
            client.send(request("GET", "/status", headers=fields, host=host))
            answered = client.answer("GET")
            seen[name] = answered and answered.status
    assert list(seen.values()) == [403, 403, 200], seen
    return ", ".join(f"{name}: {status}" for name, status in seen.items())


def content_security_policy(bench: Bench) -> str:
    with Client(address_of(bench.open.admin)) as client:
        client.send(request("GET", "/", headers=("Accept: text/html",)))
        page = client.answer("GET")
    policy = (page and page.header("content-security-policy")) or ""
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy, policy or page
    return policy[:80]


def forwarded(bench: Bench) -> str:
    with gateway(bench, "forwarded", RawBackend(), LLAMATOWER_KEY_RATE_LIMIT="2/m") as served:
        statuses = [
            send(served, CHAT, f"X-Forwarded-For: 10.0.0.{n}", f"Forwarded: for=10.0.0.{n}").status for n in range(3)
        ]
    assert statuses == [200, 200, 429], statuses
    return f"{statuses}: one client"



