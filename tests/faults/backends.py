"""Rows about backends that fail."""

import contextlib
import hashlib
import signal
import socket
import time
from collections.abc import Iterator

from . import namespace
from .bench import Asked, Bench, Gateway, all_of, eventually, metric, ms, nothing_under_way, status, warm
from parts.raw_backend import RawBackend, Received, answer, whole

SILENT = STREAMING = 100
PACE_SECONDS = 0.02


def run(bench: Bench) -> None:
    row = bench.table.run
    row(
        "kill -9 one of 3 backends: 100 silent and 100 streaming requests",
        "silent ones succeed elsewhere, streams of the victim have an error line within 1 s, none run twice",
        lambda: killed(bench),
    )
    cuts = [(name, cut) for name in CUTS for cut in ("native", "openai", "anthropic", "responses", "generate")]
    bench.chance.shuffle(cuts)
    for name, dialect in cuts:
        row(f"{name}, {dialect}", "never a clean end, the connection is not pooled", lambda a=(name, dialect): cut(bench, *a))
    heads = list(HEADS)
    bench.chance.shuffle(heads)
    for name in heads:
        row(f"{name} from a backend", "502, the connection is not pooled", lambda at=name: bad_head(bench, at))
    row(
        "all backends 503 at 100 requests/s", "attempts at most 1.2 times the requests + 10/s", lambda: all_busy(bench)
    )
    for slots in ("learn", "off"):
        row(
            f"one of 3 backends black-holed, LLAMATOWER_SLOTS={slots}",
            "at most 5 hits, then 1 probe per backoff; every request is answered",
            lambda slots=slots: black_hole(bench, slots),
        )
    row("the same backend, stopped (SIGSTOP)", "at most 5 hits in flight, every request is answered", lambda: stopped(bench))
    row("all 3 backends stopped", "still one try for a request, then 504", lambda: all_stopped(bench))


def killed(bench: Bench) -> str:
    with (
        bench.sims(3, f"tiny,pace={int(PACE_SECONDS * 1000)}ms,slots=512,reply=100") as sims,
        warmed(bench, [sim.url for sim in sims], LLAMATOWER_SLOTS="512") as gateway,
    ):
        silent = [Asked(gateway, prompt=f"silent {n}", stream=False, tokens=100) for n in range(SILENT)]
        streams = [Asked(gateway, prompt=f"stream {n}", tokens=400) for n in range(STREAMING)]
        order = silent + streams
        bench.chance.shuffle(order)
        for one in order:
            one.start()
        eventually(lambda: all(one.first for one in streams), "all streams have begun", 20)
        victim = bench.chance.choice(sims)
        name = victim.url.removeprefix("http://")
        on_victim = [one for one in streams if one.backend == name]
        was_silent = sum(
            request["outcome"] is None and request["body_sha256"] in digests(silent) for request in victim.requests("/api/chat")
        )
        victim.kill()
        at = time.monotonic()
        for one in order:
            one.join()
        failed = [one for one in silent if not one.is_whole]
        assert not failed, f"{len(failed)} silent requests failed: {failed[0]}"
        wrong = [one for one in streams if one.backend != name and not one.is_whole]
        assert not wrong, f"{len(wrong)} streams of other backends failed: {wrong[0]}"
        unseen = [one for one in on_victim if not (one.is_visibly_incomplete and one.has_error)]
        assert not unseen, f"{len(unseen)} of {len(on_victim)} streams without an error: {unseen[0]}"
        latest = max(one.ended - at for one in on_victim)
        assert latest <= 1, f"the last error came after {ms(latest)}"
        survivors = [sim for sim in sims if sim is not victim]
        ran = [request["body_sha256"] for sim in survivors for request in sim.requests("/api/chat")]
        twice = len(ran) - len(set(ran))
        again = digests(on_victim) & set(ran)
        assert not twice and not again, f"{twice} requests ran twice on the survivors, {len(again)} streams were repeated"
        assert on_victim and was_silent, f"{len(on_victim)} streams and {was_silent} silent requests at the victim"
        eventually(lambda: nothing_under_way(gateway), "every permit is back")
        return (
            f"{SILENT} of {SILENT} silent ones whole ({was_silent} were at the victim); "
            f"{len(on_victim)} streams with an error line, the last after {ms(latest)}; none twice"
        )


@contextlib.contextmanager
def warmed(bench: Bench, urls: list[str], **settings: str) -> Iterator[Gateway]:
    warm(urls)
    with bench.gateway(urls, **settings) as gateway:
        yield gateway


def spread(gateway: Gateway, urls: list[str]) -> None:
    """Sends requests until each backend has answered one, so that each has a connection in the pool."""
    missing, rounds = {url.removeprefix("http://") for url in urls}, 0
    while missing:
        missing -= {one.backend for one in all_of([Asked(gateway, prompt=f"w{rounds} {n}", stream=False) for n in range(30)])}
        rounds += 1
        assert rounds < 20, f"no request goes to {missing}"


def digests(requests: list[Asked]) -> set[str]:
    return {hashlib.sha256(one.payload).hexdigest() for one in requests}


# === Answers that break off ===

LINE = {
    "native": b'{"model":"tiny","created_at":"2025-01-01T00:00:00Z","message":{"role":"assistant","content":"x"},"done":false}\n',
    "generate": b'{"model":"tiny","created_at":"2025-01-01T00:00:00Z","response":"x","done":false}\n',
    "openai": b'data: {"id":"a","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n',
    "anthropic": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}\n\n',
    "responses": b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n',
}
KIND = {"native": "application/x-ndjson", "generate": "application/x-ndjson"}


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def half_a_chunk(line: bytes, sock: socket.socket) -> None:
    sock.sendall(chunk(line) + chunk(line)[: len(line) // 2])
    sock.close()


def fin_between_chunks(line: bytes, sock: socket.socket) -> None:
    sock.sendall(chunk(line) * 2)
    sock.close()


def reset_between_chunks(line: bytes, sock: socket.socket) -> None:
    sock.sendall(chunk(line) * 2)
    time.sleep(0.05)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def half_a_line_in_a_whole_chunk(line: bytes, sock: socket.socket) -> None:
    sock.sendall(chunk(line) + chunk(line[: len(line) // 2]))
    sock.close()


def last_chunk_without_a_last_line(line: bytes, sock: socket.socket) -> None:
    """Well-framed, and the connection stays open: only the content says that it is not complete."""
    sock.sendall(chunk(line) * 2 + b"0\r\n\r\n")


def no_chunk_size(line: bytes, sock: socket.socket) -> None:
    sock.sendall(chunk(line) + b"zz\r\n" + line)
    time.sleep(0.2)


def chunk_longer_than_its_size(line: bytes, sock: socket.socket) -> None:
    sock.sendall(chunk(line) + f"{len(line) - 3:x}\r\n".encode() + line + b"\r\n0\r\n\r\n")
    time.sleep(0.2)


CUTS = {
    "half a chunk": half_a_chunk,
    "FIN between chunks": fin_between_chunks,
    "RST between chunks": reset_between_chunks,
    "half a line, then FIN": half_a_line_in_a_whole_chunk,
    "last chunk without a last line": last_chunk_without_a_last_line,
    "a chunk without a size": no_chunk_size,
    "a chunk longer than its size": chunk_longer_than_its_size,
    "Content-Length longer than the answer, FIN": None,
    "Content-Length longer than the answer, RST": None,
    "Content-Length shorter than the answer": None,
}
ALLOWED_TO_POOL = ("last chunk without a last line",)
"""The framing was complete, so the connection may be used again."""


def cut(bench: Bench, name: str, dialect: str) -> str:
    has_length = name.startswith("Content-Length")

    def respond(received: Received, sock: socket.socket) -> None:
        if b"good" in received.body:
            return whole(received, sock)
        if has_length:
            return with_length(name, sock)
        kind = KIND.get(dialect, "text/event-stream")
        sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        CUTS[name](LINE[dialect], sock)

    backend = RawBackend(respond)
    with bench.gateway([backend.url], LLAMATOWER_RETRY_ATTEMPTS="1") as gateway:
        bad = Asked(gateway, dialect, "bad", stream=not has_length, limit=10).run()
        good = Asked(gateway, "native", "good", stream=False, limit=10).run()
        eventually(lambda: nothing_under_way(gateway), "every permit is back")
    backend.stop()
    connections = [received.connection for received in backend.received]
    assert good.status == 200 and good.is_clean, f"the request after it: {good}"
    if name == "Content-Length shorter than the answer":
        # The answer is complete by its framing; what follows must not be taken for the next one.
        assert b"stray" not in good.text, f"the next request got the rest: {good}"
        seen = f"{bad.status}, the rest thrown away"
    else:
        assert bad.is_visibly_incomplete, f"it looks complete: {bad}"
        # Clients of Responses know `response.failed`: after it the stream ends cleanly.
        may_end = dialect == "responses" and bad.has_error
        assert bad.status >= 400 or not bad.is_clean or may_end, f"a clean end: {bad}"
        seen = f"{bad.status}, {'error, ' if bad.has_error else ''}{'clean' if bad.is_clean else 'unclean'} end"
    if name not in ALLOWED_TO_POOL:
        assert len(set(connections)) == len(connections), f"the connection was used again: {connections}"
    return seen


def with_length(name: str, sock: socket.socket) -> None:
    text = b'{"model":"tiny","done":true,"message":{"role":"assistant","content":"x"},"usage":{}}'
    length = len(text) + (-20 if "shorter" in name else 20)
    if "shorter" in name:
        text = text[:length] + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
    sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode() + text)
    if name.endswith("RST"):
        time.sleep(0.05)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if "longer" in name:
        sock.close()


# === Heads that no one may believe ===

OK = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TEXT = '{"model":"tiny","done":true}'
CHUNKED = f"{len(TEXT):x}\r\n{TEXT}\r\n0\r\n\r\n"
HEADS = {
    "two differing Content-Lengths": OK + f"Content-Length: {len(TEXT)}\r\nContent-Length: 3\r\n\r\n" + TEXT,
    "Content-Length: 5, 6": OK + "Content-Length: 5, 6\r\n\r\n" + TEXT,
    "Content-Length: +28": OK + f"Content-Length: +{len(TEXT)}\r\n\r\n" + TEXT,
    "Content-Length and chunked": OK + f"Content-Length: {len(TEXT)}\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked and Content-Length": OK + f"Transfer-Encoding: chunked\r\nContent-Length: {len(TEXT)}\r\n\r\n" + CHUNKED,
    "Transfer-Encoding: gzip, chunked": OK + "Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "Transfer-Encoding twice": OK + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "a header of 64 KiB": OK + f"X: {'y' * 65536}\r\nContent-Length: {len(TEXT)}\r\n\r\n" + TEXT,
    "a header of 1 MiB": OK + f"X: {'y' * 1048576}\r\nContent-Length: {len(TEXT)}\r\n\r\n" + TEXT,
    "unsolicited 101": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nstray",
    "a status line that is none": "HTP/1.1 200\r\n\r\n",
    "a field without a colon": OK + "X\r\n\r\n" + TEXT,
    "a NUL in a field": OK + f"X: \0\r\nContent-Length: {len(TEXT)}\r\n\r\n" + TEXT,
    "HTTP/2.0": "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "nothing": "",
}


def bad_head(bench: Bench, name: str) -> str:
    def respond(received: Received, sock: socket.socket) -> None:
        if b"good" in received.body:
            return whole(received, sock)
        sock.sendall(HEADS[name].encode("latin-1"))
        if not HEADS[name]:
            sock.close()

    backend = RawBackend(respond)
    with bench.gateway([backend.url], LLAMATOWER_RETRY_ATTEMPTS="1") as gateway:
        bad = Asked(gateway, prompt="bad", stream=False, limit=10).run()
        good = Asked(gateway, prompt="good", stream=False, limit=10).run()
        eventually(lambda: nothing_under_way(gateway), "every permit is back")
    backend.stop()
    connections = [received.connection for received in backend.received]
    assert bad.status == 502, f"{bad}"
    assert good.status == 200 and b"stray" not in good.text, f"the request after it: {good}"
    assert len(set(connections)) == len(connections), f"the connection was used again: {connections}"
    return "502, not pooled"


# === Backends that do not serve ===


def all_busy(bench: Bench) -> str:
    def busy(received: Received, sock: socket.socket) -> None:
        answer(sock, {"error": "server busy, please try again.  maximum pending requests exceeded"}, "503 Service Unavailable")

    seconds, rate = (5 if bench.is_short else 20), 100
    backends = [RawBackend(busy) for _ in range(3)]
    with bench.gateway([backend.url for backend in backends]) as gateway:
        began, asked = time.monotonic(), []
        for number in range(seconds * rate):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            asked.append(Asked(gateway, prompt=str(number), stream=False).start())
        statuses = {one.join().status for one in asked}
        took = time.monotonic() - began
    attempts = sum(len(backend.received) for backend in backends)
    for backend in backends:
        backend.stop()
    most = 1.2 * len(asked) + 10 * (took + 1)  # one second's share is saved at the start
    seen = f"{len(asked)} requests in {took:.0f} s, {attempts} attempts (limit {most:.0f}), statuses {statuses}"
    assert attempts <= most and attempts >= len(asked) and statuses == {503}, seen
    return seen


def black_hole(bench: Bench, slots: str) -> str:
    """The third backend is behind a link that drops every packet, without an answer."""
    seconds = 8 if bench.is_short else 30
    with bench.sims(2, "tiny,slots=512,pace=1ms") as sims, namespace.sim(bench) as far:
        urls = [sim.url for sim in sims] + [far.url]
        settings = {"LLAMATOWER_FIRST_BYTE_TIMEOUT": "2s", "LLAMATOWER_LOAD_TIMEOUT": "2s"}
        with warmed(bench, urls, LLAMATOWER_SLOTS=slots, **settings) as gateway:
            spread(gateway, urls)
            far.drop_packets()
            began, asked = time.monotonic(), []
            while time.monotonic() < began + seconds:
                asked.append(Asked(gateway, prompt=f"x{len(asked)}", stream=False).start())
                time.sleep(0.02)
            for one in asked:
                one.join()
            dropped = far.connections_dropped()
            retried = metric(gateway, "llamatower_retries_total")
    failed = [one for one in asked if not one.is_whole]
    late = [one.began - began for one in asked if one.ended - one.began > 1]
    slowest = max(one.ended - one.began for one in asked)
    seen = (
        f"{len(asked)} requests in {seconds} s, {len(late)} waited for it (the last of them sent after "
        f"{ms(max(late, default=0))}), slowest {ms(slowest)}, {retried:.0f} retries, {dropped} connections tried"
    )
    assert not failed, f"{len(failed)} failed: {failed[0]}; {seen}"
    assert len(late) <= 5, seen
    return seen


def stopped(bench: Bench) -> str:
    seconds = 8 if bench.is_short else 30
    with bench.sims(3, "tiny,slots=512,pace=1ms") as sims:
        settings = {"LLAMATOWER_FIRST_BYTE_TIMEOUT": "1s", "LLAMATOWER_LOAD_TIMEOUT": "1s"}
        urls = [sim.url for sim in sims]
        with warmed(bench, urls, **settings) as gateway:
            spread(gateway, urls)
            victim = bench.chance.choice(sims)
            victim.process.signal(signal.SIGSTOP)
            began, asked = time.monotonic(), []
            while time.monotonic() < began + seconds:
                asked.append(Asked(gateway, prompt=f"x{len(asked)}", stream=False).start())
                time.sleep(0.02)
            for one in asked:
                one.join()
            victim.process.signal(signal.SIGCONT)
    failed = [one for one in asked if not one.is_whole]
    late = [one.began - began for one in asked if one.ended - one.began > 0.9]
    seen = f"{len(asked)} requests, {len(late)} waited for it, the last of them sent after {ms(max(late, default=0))}"
    assert not failed, f"{len(failed)} failed: {failed[0]}; {seen}"
    assert len(late) <= 5, seen
    return seen


def all_stopped(bench: Bench) -> str:
    with bench.sims(3, "tiny,slots=512,pace=1ms") as sims:
        settings = {"LLAMATOWER_FIRST_BYTE_TIMEOUT": "1s", "LLAMATOWER_LOAD_TIMEOUT": "1s"}
        urls = [sim.url for sim in sims]
        with warmed(bench, urls, **settings) as gateway:
            spread(gateway, urls)
            for sim in sims:
                sim.process.signal(signal.SIGSTOP)
            eventually(lambda: not any(row["is_up"] for row in status(gateway)["backends"]), "all are down", 20)
            asked = Asked(gateway, prompt="alone", stream=False).run()
            for sim in sims:
                sim.process.signal(signal.SIGCONT)
            eventually(lambda: all(row["is_up"] for row in status(gateway)["backends"]), "all are up", 20)
            tries = sum(request["body_sha256"] in digests([asked]) for sim in sims for request in sim.requests("/api/chat"))
            after = Asked(gateway, prompt="after", stream=False).run()
    took = asked.ended - asked.began
    seen = f"{asked.status} after {ms(took)}, {tries} tries arrived; after SIGCONT {after.status}"
    assert asked.status == 504 and after.is_whole, seen
    return seen

