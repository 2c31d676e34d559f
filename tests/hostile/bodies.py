"""Bodies that two parsers could read in two ways, or that cost more than they should."""

import json
import time
from contextlib import ExitStack

from .bench import BODY_LIMIT, BODY_READ_SECONDS, CHAT, Bench, Case
from parts.wire import Client, address_of, request

MESSAGES = '"messages":[{"role":"user","content":"x"}]'


def chat(text: str | bytes, *fields: str, target: str = "/api/chat") -> bytes:
    return request("POST", target, text if isinstance(text, bytes) else text.encode(), fields)


def refused(name: str, text: str | bytes, *fields: str, status: int = 400, target: str = "/api/chat") -> Case:
    return Case(name, chat(text, *fields, target=target), (status,))


def as_ollama(name: str, text: str) -> Case:
    return Case(f"{name}, passed on unchanged", chat(text), (200,), reaches=1)


def nested(depth: int) -> str:
    return f'{{"model":"tiny","stream":false,{MESSAGES},"options":{"[" * depth}{"]" * depth}}}'


def cases() -> list[Case]:
    model = f'{{"model":%s,"stream":false,{MESSAGES}}}'
    keys = [
        ("duplicate model", '"model":"tiny","model":"other"'),
        ("model and MODEL", '"model":"tiny","MODEL":"other"'),
        ("Model alone", '"Model":"tiny"'),
        ("a key with an escape", '"model":"tiny","mod\\u0065l":"other"'),
        ("a key with another case by Unicode folding", '"model":"tiny","\u212aeep_alive":0'),
        ("duplicate stream", '"model":"tiny","stream":true,"stream":false'),
        ("stream and Stream", '"model":"tiny","stream":false,"Stream":true'),
        ("keep_alive and Keep_Alive", '"model":"tiny","keep_alive":"5m","Keep_Alive":0'),
        ("duplicate keep_alive", '"model":"tiny","keep_alive":"5m","keep_alive":0'),
        ("duplicate options", '"model":"tiny","options":{"num_ctx":1},"options":{"num_ctx":9}'),
        ("options with num_ctx twice", '"model":"tiny","options":{"num_ctx":1,"num_ctx":9}'),
        ("options with num_ctx and NUM_CTX", '"model":"tiny","options":{"num_ctx":1,"NUM_CTX":9}'),
        ("stream as a text", '"model":"tiny","stream":"true"'),
        ("stream as a number", '"model":"tiny","stream":1'),
        ("a number that is no JSON", '"model":"tiny","x":01'),
    ]
    names = {
        "an array": '["tiny"]', "a number": "1", "an object": '{"a":"tiny"}', 
        "a newline": '"tiny\\n"', "a NUL": '"ti\\u0000ny"', "a carriage return": '"tiny\\r\\nX: y"', "../": '"../tiny"',
        "a path": '"a/../../tiny"', "an ESC": '"\\u001b[31mtiny"', "64 KiB": json.dumps("a" * 65536),
    }  # fmt: skip
    return [
        *(refused(name, f"{{{part},{MESSAGES}}}") for name, part in keys),
        *(refused(f"model is {what}", model % value) for what, value in names.items()),
        refused("gzip", CHAT, "Content-Encoding: gzip", status=415),
        refused("br", CHAT, "Content-Encoding: br", status=415),
        refused("gzip, identity", CHAT, "Content-Encoding: gzip, identity", status=415),
        refused("invalid UTF-8", CHAT.replace(b"hello", b"\xff\xfe")),
        refused("overlong UTF-8", CHAT.replace(b"hello", b"\xc0\xaf")),
        refused("a surrogate in UTF-8", CHAT.replace(b"hello", b"\xed\xa0\x80")),
        refused("depth over 64", nested(64)),
        refused("depth of 100,000", nested(100_000)),
        refused("not JSON", "model=tiny"),
        refused("an array", f"[{CHAT.decode()}]"),
        refused("cut JSON", CHAT[:-1]),
        refused("NaN", '{"model":"tiny","options":{"temperature":NaN}}'),
        refused("a comment", '{"model":"tiny"/**/}'),
        refused("a control character in a text", '{"model":"tiny","x":"\n"}'),
        refused("over the limit, with Content-Length", CHAT + b" " * BODY_LIMIT, status=413),
        refused("stream as a text on /v1", '{"model":"tiny","stream":"true","messages":[]}', target="/v1/chat/completions"),
        refused("duplicate model on /v1", '{"model":"tiny","model":"x","messages":[]}', target="/v1/chat/completions"),
        refused("duplicate model on /v1/messages", '{"model":"tiny","model":"x","messages":[]}', target="/v1/messages"),
        refused("duplicate input model on /api/embed", '{"model":"tiny","MODEL":"x","input":"a"}', target="/api/embed"),
        refused("a model of the cloud without a key", '{"model":"gpt-oss:120b-cloud","messages":[]}', status=403),
        refused("a model of the cloud, other case", '{"model":"gpt-oss:120b-CLOUD","messages":[]}', status=403),
        # What Ollama itself reads in the same way, and refuses itself where it does.
        as_ollama("no model", f"{{{MESSAGES}}}"),
        as_ollama("model is null", model % "null"),
        as_ollama("model is empty", model % '""'),
        as_ollama("model has a space", model % '"ti ny"'),
        as_ollama("model with a lone surrogate", model % '"tiny\\ud800"'),
        as_ollama("two values: the first counts", CHAT.decode() * 2),
        as_ollama("text behind the value", CHAT.decode() + " x"),
        Case("depth of 60", chat(nested(56)), (200,), reaches=1),
        Case("10,000 messages", chat(json.dumps({"model": "tiny", "stream": False, "messages": [
            {"role": "user", "content": "x"}] * 10_000})), (200,), reaches=1),
        Case("text with all escapes", chat('{"model":"t\\u0069ny","stream":false,"messages":[]}'), (200,), reaches=1),
    ]  # fmt: skip


def run(bench: Bench) -> None:
    rows = cases()
    bench.chance.shuffle(rows)
    for case in rows:
        bench.run("body", case)
    row = bench.table.run
    row("body: over the limit is refused early", "413 before the body was sent, nothing at the backend", lambda: early(bench))
    row("body: chunked over the limit", "413 by the limit, nothing at the backend", lambda: chunked(bench))
    row("body: 100 heads that declare 100 MiB and send none of it", "a chat is answered at once", lambda: declared(bench))
    row(
        "body: one byte at a time",
        f"408 within {BODY_READ_SECONDS:.0f} s + 1 s of the last byte, nothing at the backend",
        lambda: stops(bench),
    )


def early(bench: Bench) -> str:
    since = len(bench.backend.received)
    with Client(address_of(bench.open.origin)) as client:
        began = time.monotonic()
        client.send(request("POST", "/api/chat", b"")[:-len("Content-Length: 0\r\n\r\n")] + f"Content-Length: {BODY_LIMIT + 1}\r\n\r\n{{".encode())
        answer = client.answer()
        took = time.monotonic() - began
    seen = f"{answer and answer.status} after 1 byte of the body and {took * 1000:.0f} ms"
    assert answer and answer.status == 413 and not bench.arrived(0, since), seen
    return seen


def chunked(bench: Bench) -> str:
    since = len(bench.backend.received)
    with Client(address_of(bench.open.origin)) as client:
        client.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        for _ in range(3 * BODY_LIMIT // 65536):
            if not client.send(b"10000\r\n" + b" " * 65536 + b"\r\n"):
                break
            sent += 65536
        answer = client.answer()
    seen = f"{answer and answer.status}"
    assert answer and answer.status == 413 and not bench.arrived(0, since), seen
    return seen


def declared(bench: Bench) -> str:
    """The bodies of all requests may have 8 MiB together."""
    with ExitStack() as silent:
        for _ in range(100):
            client = silent.enter_context(Client(address_of(bench.open.origin)))
            client.send(f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_LIMIT}\r\nExpect: 100-continue\r\n\r\n".encode())
            # The gateway reads the body: it has reserved the memory, or will reserve it as bytes arrive.
            head = client.head()
            assert head and head.status == 100, head
        began = time.monotonic()
        with Client(address_of(bench.open.origin)) as client:
            client.send(request("POST", "/api/chat", CHAT))
            answer = client.answer()
        took = time.monotonic() - began
    seen = f"{answer and answer.status} after {took:.1f} s"
    assert answer and answer.status == 200 and took < 1, seen
    return seen


def stops(bench: Bench) -> str:
    """Bytes that come one by one are within the limit of a pause; then they stop."""
    since = len(bench.backend.received)
    with Client(address_of(bench.open.origin)) as client:
        client.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(5):
            client.send(b" ")
            time.sleep(BODY_READ_SECONDS / 10)
        began = time.monotonic()
        answer = client.answer()
        took = time.monotonic() - began
        is_closed = client.is_closed(4)
    seen = f"{answer and answer.status} after {took:.1f} s, {'closed' if is_closed else 'open'}"
    assert answer and answer.status == 408 and took < BODY_READ_SECONDS + 1 and is_closed, seen
    assert not bench.arrived(0, since), "it reached the backend"
    return seen
