"""Rows about those who run the gateway: rollouts, settings, names of servers."""

import contextlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

from .bench import (
    Asked, Bench, Client, Gateway, NotHere, NotHttp, Process, ask, body, built, eventually, free_port, ms, warm,
)  # fmt: skip
from harness.backends import AttachedSim
from parts.raw_backend import RawBackend
from parts.wire import address_of, request

TTL_SECONDS = 2


def run(bench: Bench) -> None:
    row = bench.table.run
    row(
        "SIGTERM under load, 2 replicas, 3 rollouts (on Kubernetes: ./check node)",
        "0 failed among requests shorter than the cap",
        lambda: rollouts(bench),
    )
    row(
        "SIGTERM: the order",
        "readiness first, requests served meanwhile, then the hard cap with an error line",
        lambda: drain_order(bench),
    )
    row("bad configuration at the start", "exit code 2, the key's name and where it came from", lambda: bad_start(bench))
    row("bad configuration at a reload", "the same text, the old settings stay in force", lambda: bad_reload(bench))
    row("a panic in a handler", "that request alone fails, permits return", lambda: panic())
    row(
        "DNS answer changes", f"new address within {TTL_SECONDS} s (TTL) + 1 s, no stream cut", lambda: names_change(bench)
    )


# === Rollouts ===


class Balancer:
    """Connections to those replicas whose /health is 200, in turn; looked at every 100 ms."""

    def __init__(self, replicas: list[Gateway]):
        self.replicas, self.ready, self.turn = replicas, list(replicas), 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = self._listener.getsockname()
        for work in (self._accept, self._probe):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        self.replicas = []
        self._listener.close()

    def _probe(self) -> None:
        while self.replicas:
            self.ready = [one for one in self.replicas if is_ready(one)]
            time.sleep(0.1)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        for _ in range(20):
            ready = list(self.ready)
            self.turn += 1
            if not ready:
                time.sleep(0.05)
                continue
            with contextlib.suppress(OSError):
                server = socket.create_connection(address_of(ready[self.turn % len(ready)].origin), 1)
                return pipe(client, server)
        client.close()


def is_ready(gateway: Gateway) -> bool:
    try:
        return ask(f"{gateway.origin}/health", limit=1)[0] == 200
    except OSError:
        return False


def pipe(one: socket.socket, other: socket.socket) -> None:
    """Bytes in both directions until either side ends."""
    with one, other, contextlib.suppress(OSError):
        while True:
            ready, _, _ = select.select([one, other], [], [], 60)
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)


class Callers:
    """Clients that send one request after another; half of them keep their connections."""

    def __init__(self, bench: Bench, address: tuple[str, int], count: int):
        self.address, self.stop = address, threading.Event()
        self.whole, self.failed, self.longest = 0, [], 0.0
        self._lock = threading.Lock()
        self.threads = [
            threading.Thread(target=self._call, args=(n % 2 == 0, bench.chance.getrandbits(64)), daemon=True) for n in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def _call(self, keeps: bool, seed: int) -> None:
        chance, client = random.Random(seed), None
        while not self.stop.is_set():
            began, error = time.monotonic(), None
            try:
                client = client or Client(self.address, 20)
                stream = chance.random() < 0.5
                client.send(request("POST", "/api/chat", body("native", "x", stream, tokens=chance.randint(1, 40))))
                answer = client.answer()
                if answer is None or answer.status != 200 or not answer.is_whole or b'"done":true' not in answer.body:
                    error = f"{answer and answer.status} {answer and answer.body[-200:]!r}"
                if not keeps or error or (answer and answer.header("connection") == "close"):
                    client.socket.close()
                    client = None
            except (OSError, NotHttp) as why:
                error, client = repr(why), None
            with self._lock:
                if error:
                    self.failed.append(error)
                else:
                    self.whole += 1
                    self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(chance.random() * 0.1)

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)


def rollouts(bench: Bench) -> str:
    settings = {"LLAMATOWER_DRAIN_DELAY": "1s", "LLAMATOWER_DRAIN_TIMEOUT": "10s"}
    with bench.sims(2, "tiny,slots=64,pace=20ms") as sims:
        urls = [sim.url for sim in sims]
        warm(urls)
        with bench.gateway(urls, **settings) as one, bench.gateway(urls, **settings) as two:
            balancer = Balancer([one, two])
            callers = Callers(bench, balancer.address, 20)
            time.sleep(1)
            codes = []
            for _ in range(3):
                for gateway in bench.chance.sample([one, two], 2):
                    codes.append(gateway.process.terminate())
                    gateway.process.start(f"{gateway.origin}/health", 200)
                    eventually(lambda at=gateway: at in balancer.ready, "the balancer uses it again")
                    time.sleep(0.3)
            callers.end()
            balancer.stop()
    seen = f"{callers.whole} requests (the longest {callers.longest:.1f} s), {len(callers.failed)} failed; exit codes {codes}"
    assert not callers.failed, f"{seen}; the first: {callers.failed[0]}"
    assert codes == [0] * 6, seen
    return seen


def drain_order(bench: Bench) -> str:
    delay, cap = 1, 3
    settings = {"LLAMATOWER_DRAIN_DELAY": f"{delay}s", "LLAMATOWER_DRAIN_TIMEOUT": f"{cap}s"}
    with bench.sims(1, "tiny,slots=64,pace=20ms") as sims, bench.gateway([sims[0].url], **settings) as gateway:
        long = Asked(gateway, prompt="long", tokens=5000).start()
        eventually(lambda: long.first, "the stream has begun")
        child = gateway.process._child
        began = time.monotonic()
        gateway.process.signal(signal.SIGTERM)
        eventually(lambda: not is_ready(gateway), "/health is 503", 1)
        unready = time.monotonic() - began
        meanwhile = Asked(gateway, prompt="meanwhile", stream=False, tokens=3).run()
        assert time.monotonic() - began < delay, "this machine is too busy for this row"
        code = child.wait(30)
        ended = time.monotonic() - began
        long.join()
    seen = (
        f"/health 503 after {ms(unready)}; a request then {meanwhile.status}; the stream {'with' if long.has_error else 'WITHOUT'} an "
        f"error line, {'clean' if long.is_clean else 'unclean'} end after {long.ended - began:.1f} s; exit {code} after {ended:.1f} s"
    )
    assert meanwhile.is_whole and code == 0, seen
    assert long.has_error and long.is_visibly_incomplete and not long.is_clean, seen
    assert delay + cap - 0.2 <= long.ended - began <= delay + cap + 1, seen
    return seen


# === Settings ===


def start_with(bench: Bench, text: str | None, **settings: str) -> tuple[int, str]:
    """Exit code and output of a gateway that must not start."""
    env = {"PATH": os.environ["PATH"], "OLLAMA_URL": "http://127.0.0.1:9", "LLAMATOWER_LISTEN": "127.0.0.1:0", "LLAMATOWER_ADMIN_LISTEN": "off"}
    if text is not None:
        file = bench.folder / "bad.toml"
        file.write_text(text)
        env["LLAMATOWER_CONFIG"] = str(file)
    program = [str(built("LLAMATOWER_BIN", "llamatower"))]
    try:
        done = subprocess.run(program, env={**env, **settings}, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return -1, "it started"
    return done.returncode, done.stdout + done.stderr


def bad_start(bench: Bench) -> str:
    file = "bad.toml"
    cases = [
        ("a wrong value", None, {"LLAMATOWER_BODY_LIMIT": "lots"}, ["LLAMATOWER_BODY_LIMIT", "lots"]),
        ("a misspelt variable", None, {"LLAMATOWER_BODY_LIMITS": "1MiB"}, ["LLAMATOWER_BODY_LIMITS"]),
        ("a wrong address", None, {"OLLAMA_URL": "gpu:port"}, ["OLLAMA_URL"]),
        ("a plain key in place of a digest", None, {"LLAMATOWER_API_KEYS": "ada=secret"}, ["LLAMATOWER_API_KEYS"]),
        ("a wrong value in the file", '[limits]\nbody = "lots"\n', {}, ["limits.body", file]),
        ("an unknown key in the file", "[limits]\nbodies = 1\n", {}, ["bodies", file]),
        ("no TOML", "[limits\n", {}, [file]),
        ("a file that is not there", None, {"LLAMATOWER_CONFIG": "/nowhere.toml"}, ["/nowhere.toml"]),
        ("a file of keys that is not there", None, {"LLAMATOWER_API_KEYS_FILE": "/nowhere"}, ["LLAMATOWER_API_KEYS_FILE", "/nowhere"]),
    ]  # fmt: skip
    for name, text, settings, parts in cases:
        code, output = start_with(bench, text, **settings)
        missing = [part for part in parts if part not in output]
        assert code == 2 and not missing, f"{name}: exit {code}, without {missing}: {output[-300:]!r}"
        assert "secret" not in output, f"{name}: it repeats the key"
    return f"{len(cases)} cases, each with its name and source"


def bad_reload(bench: Bench) -> str:
    file = bench.folder / "reloaded.toml"
    file.write_text('[limits]\nkey_rate = "2/h"\n')
    backend = RawBackend()
    with bench.gateway([backend.url], LLAMATOWER_CONFIG=str(file), LLAMATOWER_LOG_FORMAT="json") as gateway:
        assert Asked(gateway, stream=False).run().status == 200
        texts = {'[limits]\nkey_rate = "often"\n': "limits.key_rate", "[limits\n": str(file), "[limits]\nkeyrate = 1\n": "keyrate"}
        for number, (text, part) in enumerate(texts.items(), 1):
            file.write_text(text)
            gateway.process.signal(signal.SIGHUP)
            eventually(lambda n=number: gateway.process.log().count("reloading the settings failed") == n, "the reload has failed")
            line = [line for line in gateway.process.log().splitlines() if "reloading the settings failed" in line][-1]
            assert part in line, f"without {part}: {line}"
        kept = [Asked(gateway, stream=False).run().status for _ in range(2)]
        file.write_text('[limits]\nkey_rate = "off"\n')
        gateway.process.signal(signal.SIGHUP)
        eventually(lambda: "settings reloaded" in gateway.process.log(), "the next reload succeeds")
        after = Asked(gateway, stream=False).run().status
    backend.stop()
    assert kept == [200, 429] and after == 200, (kept, after)
    return f"{len(texts)} bad files, the old limit still counts ({kept}); the next good one applies"


def panic() -> str:
    raise NotHere("no request makes the program panic; cargo test -p llamatower-layers panic_guard, and --test stack, make one")


# === Names ===


class Names:
    """A DNS server with one name, on UDP."""

    def __init__(self, name: str):
        self.name, self.addresses, self.asked = name, [], 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, peer = self._socket.recvfrom(4096)
                self._socket.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode().lower())
            at += 1 + length
        kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
        question = query[12 : at + 5]
        is_known = ".".join(labels) == self.name
        addresses = self.addresses if is_known and kind == 1 else []
        self.asked += bool(addresses)
        records = b"".join(struct.pack(">HHHIH", 0xC00C, 1, 1, TTL_SECONDS, 4) + socket.inet_aton(one) for one in addresses)
        flags = 0x8580 if is_known else 0x8583
        return query[:2] + struct.pack(">HHHHH", flags, 1, len(addresses), 0, 0) + question + records

    def stop(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def sim_at(bench: Bench, address: str, port: int, model: str) -> Iterator[AttachedSim]:
    command = [str(built("LLAMATOWER_SIM_BIN", "llamatower-sim")), "--listen", f"{address}:{port}", "--model", model]
    process = Process(f"sim-{address}", command, {}, bench.folder)
    sim = AttachedSim(f"http://{address}:{port}")
    try:
        process.start(f"{sim.url}/api/version", 200)
        yield sim
    finally:
        process.kill()


def names_change(bench: Bench) -> str:
    port, model = free_port(), "tiny,slots=64,pace=20ms"
    names = Names("gpu.models.internal")
    delays = []
    with sim_at(bench, "127.0.0.2", port, model) as first, sim_at(bench, "127.0.0.3", port, model) as second:
        names.addresses = ["127.0.0.2"]
        settings = {"LLAMATOWER_DNS_SERVERS": names.address}
        with bench.gateway([f"http://gpu.models.internal:{port}"], **settings) as gateway:
            for number in range(4):
                old, new = (first, second) if number % 2 == 0 else (second, first)
                stream = Asked(gateway, prompt=f"stream {number}", tokens=400).start()
                eventually(lambda at=stream: at.first, "the stream has begun")
                time.sleep(bench.chance.random() * TTL_SECONDS)
                before, began = new.seen("/api/chat"), time.monotonic()
                names.addresses = [new.url[7:].split(":")[0]]
                while new.seen("/api/chat") == before:
                    assert time.monotonic() < began + 10, "no request goes to the new address"
                    one = Asked(gateway, prompt="x", stream=False, tokens=1).run()
                    assert one.is_whole, f"a request failed meanwhile: {one}"
                delays.append(time.monotonic() - began)
                stream.join()
                assert stream.is_whole, f"the stream was cut: {stream}"
                assert old.seen("/api/chat") > 0
    names.stop()
    seen = f"{len(delays)} changes, new address after {', '.join(f'{delay:.1f} s' for delay in delays)}; every stream whole"
    assert max(delays) <= TTL_SECONDS + 1, seen
    return seen


