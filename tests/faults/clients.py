"""Rows about clients that leave, stop, or only hold connections."""

import contextlib
import itertools
import os
import select

import socket
import subprocess
import sys
import threading
import time

from .bench import (
    Asked, Bench, Client, Gateway, NotHere, body, cpu_seconds, eventually, metric, ms,
    nothing_under_way, percentile, pid, resident, resource, waiting,
)  # fmt: skip
from parts.raw_backend import RawBackend, Received, whole
from parts.wire import address_of, request

LIMIT_SECONDS = 0.25
"""Until the backend's connection is closed after its client has gone."""
KIB = 1024
IDLE_LIMIT = 20 * KIB
READER_LIMIT = 64 * KIB
"""Beside what any stream holds."""
LINE = (
    b'{"model":"tiny","created_at":"2025-01-01T00:00:00Z","message":{"role":"assistant","content":"'
    + b"x" * 400
    + b'"},"done":false}\n'
)
CHUNK = f"{len(LINE):x}\r\n".encode() + LINE + b"\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def run(bench: Bench) -> None:
    row = bench.table.run
    gone = [(phase, how) for phase in ("queued", "waiting", "streaming") for how in ("FIN", "RST")]
    bench.chance.shuffle(gone)
    for phase, how in gone:
        row(
            f"client gone by {how} while {phase}",
            f"backend connection closed within {ms(LIMIT_SECONDS)}, every permit back",
            lambda a=(phase, how): left(bench, *a),
        )
    row(
        "2000 clients gone before the head of their answer",
        "at most 1 KiB each stays in memory",
        lambda: left_memory(bench),
    )
    row("client stops reading in mid-stream", "the stall clock ends it: backend closed, permit and slot back", lambda: stalled(bench))
    row("a reader of 1 byte/s", f"holds at most {READER_LIMIT // KIB} KiB more than a stream that is read at once", lambda: slow_readers(bench))
    row("fd limit 256, 400 connections", "no spin, accepts again within 2 s", lambda: few_descriptors(bench))
    row(
        "10,000 idle and 10,000 dripping connections",
        f"at most {IDLE_LIMIT // KIB} KiB each, gone after the header clock",
        lambda: held(bench),
    )


class Watched:
    """A backend that streams or stays silent, and notes when its connection is closed."""

    def __init__(self, phase: str):
        self.phase = phase
        self.closed: dict[int, float] = {}
        self.backend = RawBackend(self._respond)
        self.first = threading.Event()

    def _respond(self, received: Received, sock: socket.socket) -> None:
        if b"good" in received.body:
            return whole(received, sock)
        if self.phase == "streaming":
            sock.sendall(STREAM_HEAD)
        self.first.set()
        try:
            while True:
                if self.phase == "streaming":
                    sock.sendall(CHUNK)
                ready, _, _ = select.select([sock], [], [], 0.01)
                if ready and not sock.recv(1):
                    raise ConnectionResetError
        except OSError:
            self.closed[received.connection] = time.monotonic()
            raise


def left(bench: Bench, phase: str, how: str) -> str:
    watched = Watched(phase)
    rounds, delays = 5, []
    settings = {"LLAMATOWER_SLOTS": "1"}
    with bench.gateway([watched.backend.url], **settings) as gateway:
        for number in range(rounds):
            time.sleep(bench.chance.random() * 0.05)
            delays.append(leave_once(gateway, watched, phase, how, number))
        eventually(lambda: nothing_under_way(gateway), "every permit is back", 2)
        after = Asked(gateway, prompt="good", stream=False).run()
        assert after.status == 200, f"the slot is not back: {after}"
    watched.backend.stop()
    seen = f"after {ms(percentile(delays, 0.5))}, at most {ms(max(delays))}; permits back"
    assert max(delays) <= LIMIT_SECONDS, seen
    return seen


def leave_once(gateway: Gateway, watched: Watched, phase: str, how: str, number: int) -> float:
    watched.first.clear()
    address = address_of(gateway.origin)
    holder = None
    if phase == "queued":
        holder = Client(address)
        holder.send(request("POST", "/api/chat", body("native", f"holder {number}", True)))
        assert watched.first.wait(5)
    seen = len(watched.closed)
    client = Client(address)
    client.send(request("POST", "/api/chat", body("native", f"x {number}", phase == "streaming")))
    if phase == "queued":
        eventually(lambda: waiting(gateway) == 1, "it waits in the queue")
    else:
        assert watched.first.wait(5), "it has not arrived at the backend"
    if phase == "streaming":
        client.head()
        client.chunk()
    at = time.monotonic()
    client.socket.close() if how == "FIN" else client.reset()
    if phase == "queued":
        eventually(lambda: waiting(gateway) == 0, "it has left the queue", 2)
        delay = time.monotonic() - at
        assert holder
        holder.socket.close()
        eventually(lambda: len(watched.closed) > seen, "the holder's connection is closed", 5)
        assert len([one for one in watched.backend.received if f"x {number}".encode() in one.body]) == 0
        return delay
    eventually(lambda: len(watched.closed) > seen, "the backend's connection is closed", 5)
    return max(watched.closed.values()) - at


def left_memory(bench: Bench) -> str:
    """One after the other, so that the memory of many connections at once does not count."""
    count = 2000
    with bench.sims(1, "tiny,slots=64,pace=2ms") as sims, bench.gateway([sims[0].url]) as gateway:
        memory = []
        for number in (500, count):
            for _ in range(number):
                client = Client(address_of(gateway.origin))
                client.send(request("POST", "/api/chat", body("native", "x", True)))
                client.socket.close()
                time.sleep(0.004)
            eventually(lambda: nothing_under_way(gateway), "every permit is back", 10)
            memory.append(resident(pid(gateway)))
    each = (memory[1] - memory[0]) / count
    seen = f"{each / KIB:.1f} KiB each ({memory[1] // KIB} KiB after {count})"
    assert each <= KIB, seen
    return seen


def stalled(bench: Bench) -> str:
    seconds = 2
    watched = Watched("streaming")
    settings = {"LLAMATOWER_SLOTS": "1", "LLAMATOWER_WRITE_STALL_TIMEOUT": f"{seconds}s"}
    with bench.gateway([watched.backend.url], **settings) as gateway:
        client = Client(address_of(gateway.origin), receive_buffer=4096)
        client.send(request("POST", "/api/chat", body("native", "x", True)))
        client.head()
        client.chunk()
        at = time.monotonic()
        eventually(lambda: watched.closed, "the backend's connection is closed", 60)
        took = max(watched.closed.values()) - at
        eventually(lambda: nothing_under_way(gateway), "every permit is back", 2)
        after = Asked(gateway, prompt="good", stream=False).run()
        assert after.status == 200, f"the slot is not back: {after}"
        client.socket.close()
    watched.backend.stop()
    return f"closed {took:.1f} s after the last read (the clock is {seconds} s, the buffers fill first); permit and slot back"


def slow_readers(bench: Bench) -> str:
    """Streams that are read by a byte a second, as fast as the backend can write them.

    What such a reader holds is what the same streams need above what they needed before the backend wrote so fast.
    """
    count, seconds = 400, 5 if bench.is_short else 20
    watched, flood = Watched("streaming"), threading.Event()
    watched_fast(watched, flood)
    with bench.gateway([watched.backend.url], LLAMATOWER_SLOTS="off") as gateway:
        for _ in range(3):
            Asked(gateway, prompt="good", stream=False).run()
        before = resident(pid(gateway))
        clients = [Client(address_of(gateway.origin), receive_buffer=4096) for _ in range(count)]
        for number, client in enumerate(clients):
            client.send(request("POST", "/api/chat", body("native", f"x {number}", True)))
            client.head()
        calm = resident(pid(gateway))
        flood.set()
        highest = 0
        for _ in range(seconds):
            for client in clients:
                client.socket.recv(1)
            time.sleep(1)
            highest = max(highest, resident(pid(gateway)))
        assert not watched.closed, "a stream was ended although its client reads"
        for client in clients:
            client.socket.close()
        eventually(lambda: nothing_under_way(gateway), "every permit is back", 5)
    watched.backend.stop()
    each, stream = (highest - calm) / count, (calm - before) / count
    seen = f"{each / KIB:.1f} KiB each ({count} readers, {seconds} s), beside {stream / KIB:.1f} KiB for a stream that is read at once"
    assert each <= READER_LIMIT, seen
    return seen


def watched_fast(watched: Watched, flood: threading.Event) -> None:
    """Writes one line, and more without a pause from `flood` on."""

    def respond(received: Received, sock: socket.socket) -> None:
        if b"good" in received.body:
            return whole(received, sock)
        sock.sendall(STREAM_HEAD + CHUNK)
        flood.wait(60)
        try:
            while True:
                sock.sendall(CHUNK)
        except OSError:
            watched.closed[received.connection] = time.monotonic()
            raise

    watched.backend.respond = respond


def few_descriptors(bench: Bench) -> str:
    """The limit is set by prlimit on the running process."""
    backend = RawBackend()
    with bench.gateway([backend.url]) as gateway:
        process = pid(gateway)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (256, 256))
        clients = []
        for _ in range(400):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(address_of(gateway.origin))
            clients.append(client)
        eventually(lambda: metric_is_stable(process), "the gateway has no more descriptors", 10)
        used = cpu_seconds(process)
        time.sleep(3)
        spin = (cpu_seconds(process) - used) / 3
        for client in clients:
            client.close()
        at = time.monotonic()
        after = Asked(gateway, prompt="x", stream=False, limit=10).run()
        took = time.monotonic() - at
        errors = metric(gateway, "llamatower_accept_errors_total")
        highest = len(os.listdir(f"/proc/{process}/fd"))
    backend.stop()
    seen = f"{spin * 100:.1f} % of a core while full, {errors:.0f} failed accepts, answered {after.status} {ms(took)} after they closed ({highest} descriptors then)"
    assert spin < 0.05 and after.status == 200 and took <= 2, seen
    return seen


def metric_is_stable(process: int) -> bool:
    return len(os.listdir(f"/proc/{process}/fd")) >= 250


def open_files(wanted: int) -> int:
    """How many files a process may open; as root, at least as many as are wanted."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


HOLDER = r"""
import os, resource, selectors, socket, sys, time
host, port, count, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
sockets = []
for number in range(count):
    one = socket.socket()
    # More connections than one address has ports.
    one.bind((f"127.0.1.{1 + number % 200}", 0))
    one.settimeout(20)
    one.connect((host, port))
    if kind == "drip":
        one.sendall(head)
    one.setblocking(False)
    sockets.append(one)
print("open", flush=True)
sent, open_ones = 0, set(sockets)
began = time.monotonic()
while open_ones and time.monotonic() < began + float(sys.argv[5]):
    for one in list(open_ones):
        try:
            if kind == "drip":
                one.send(b"x")
            while (data := one.recv(4096)):
                pass
            open_ones.discard(one)
        except BlockingIOError:
            pass
        except OSError:
            open_ones.discard(one)
    time.sleep(0.5)
print(len(open_ones), time.monotonic() - began, flush=True)
"""


def held(bench: Bench) -> str:
    """Connections that send nothing, and then also ones that send a byte of a head now and then."""
    clock, each = 40, 10_000
    most = open_files(2 * each + 500)
    if most < 2 * each + 500:
        each = (most - 500) // 2
        if each < 1000:
            raise NotHere(f"a process may open {most} files here, which is too few")
    backend = RawBackend()
    settings = {
        "LLAMATOWER_HEADER_TIMEOUT": f"{clock}s",
        "LLAMATOWER_KEEP_ALIVE_TIMEOUT": f"{clock}s",
        "LLAMATOWER_MAX_CONNECTIONS": "25000",
    }
    with bench.gateway([backend.url], **settings) as gateway:
        process = pid(gateway)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (most, most))
        for _ in range(20):
            Asked(gateway, prompt="x", stream=False).run()
        memory, holders = [resident(process)], []
        host, port = address_of(gateway.origin)
        for kind in ("idle", "drip"):
            program = [sys.executable, "-c", HOLDER, host, str(port), str(each), kind, str(clock + 15)]
            holders.append(subprocess.Popen(program, stdout=subprocess.PIPE, text=True))
            assert holders[-1].stdout.readline() == "open\n", "a connection was not accepted"
            time.sleep(1)
            memory.append(resident(process))
        count = metric(gateway, "llamatower_connections", 'listener="clients"')
        during = Asked(gateway, prompt="x", stream=False).run()
        ends = [holder.stdout.readline().split() for holder in holders]
        for holder in holders:
            holder.wait()
        left_over = metric(gateway, "llamatower_connections", 'listener="clients"')
    backend.stop()
    idle, drip = ((after - before) / each for before, after in itertools.pairwise(memory))
    last = max(float(end[1]) for end in ends)
    seen = (
        f"{count:.0f} connections, {idle / KIB:.1f} KiB an idle one, {drip / KIB:.1f} KiB a dripping one; all closed "
        f"{last:.0f} s after they were open (clock {clock} s), {left_over:.0f} left; a request meanwhile: {during.status}"
    )
    assert count >= 2 * each and max(idle, drip) <= IDLE_LIMIT and during.status == 200, seen
    assert [end[0] for end in ends] == ["0", "0"] and left_over == 0 and last <= clock + 10, seen
    return seen
